"""`python -m usseg_ray.doctor`: is this machine, and is this cluster file, ready for a sweep?"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from usseg_ray.core.cli import Version, console, make_app, run
from usseg_ray.core.errors import UserError

if TYPE_CHECKING:
    from usseg_ray.doctor.finding import Finding

FOUND_ERRORS = 1
COLOURS = {"error": "red", "warning": "yellow", "ok": "green"}
app = make_app()


@app.command()
def doctor(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files for `ray up` or KubeRay to check.", metavar="[CLUSTER.YAML]..."),
    ] = None,
    dashboard: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A running cluster's dashboard, e.g. http://127.0.0.1:8265: who is let in there?",
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI if unset.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Check this machine and cluster files, and say how to mend what is wrong.

    Exit code 0: nothing is wrong, at most warnings; 1: errors were found; 2: wrong usage.
    """
    for path in files or ():
        if not path.is_file():
            raise UserError(f"{path}: no such file. Give cluster.yaml, or one of docs/deploy.")
    found = examine(files or [], dashboard, tracking_uri, os.environ)
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(one) for one in found], indent=1) + "\n")
    else:
        _show(found)
    raise typer.Exit(FOUND_ERRORS if any(one.level == "error" for one in found) else 0)


def examine(
    files: list[Path],
    dashboard: str | None,
    tracking_uri: str | None,
    environment: Mapping[str, str],
) -> list["Finding"]:
    """Runs every check that applies.

    Args:
        files: Cluster files.
        dashboard: URL of a running cluster's dashboard.
        tracking_uri: MLflow store.
        environment: Variables of this process.

    Returns:
        All findings, in the order of the checks.
    """
    # Ray, pyarrow: not for --help
    from usseg_ray.doctor import access, machine, stores  # noqa: PLC0415

    installed = machine.installed_versions()
    driver = machine.driver_version()
    # Without a driver there is no GPU to ask for, and the answer takes seconds.
    cuda, devices = _pytorch() if driver else (None, [])
    cluster = bool(files or dashboard or environment.get("RAY_ADDRESS"))
    found = [
        *machine.check_versions(installed),
        *machine.check_faiss(installed, len(devices)),
        *machine.check_jobs(installed),
        *machine.check_gpu(driver, cuda, devices),
        *(one for folder in machine.working_folders() for one in machine.check_folder(folder)),
        *machine.check_sockets(environment),
        *machine.check_shm(),
        *access.check_token(environment, Path.home(), cluster=cluster),
        *access.check_ports(token_mode=environment.get("RAY_AUTH_MODE") == "token"),
    ]
    for name in ("USSEG_DATA", "USSEG_FEATURES_SHARED"):
        if environment.get(name):
            found += stores.check_place(environment[name])
    if uri := tracking_uri or environment.get("MLFLOW_TRACKING_URI"):
        found += stores.check_tracking(uri)
    if dashboard:
        found += access.check_dashboard(dashboard.rstrip("/"), installed.get("ray"))
    for path in files:
        found += _file(path, installed)
    return found


def _file(path: Path, installed: Mapping[str, str]) -> list["Finding"]:
    from usseg_ray.doctor.finding import Finding  # noqa: PLC0415 (with the others)
    from usseg_ray.doctor.launcher import check_launcher, read_yaml  # noqa: PLC0415
    from usseg_ray.doctor.rayjob import check_rayjob  # noqa: PLC0415

    spec = read_yaml(path)
    if isinstance(spec, Finding):
        return [spec]
    if "apiVersion" in spec:
        return check_rayjob(spec, path.name, installed)
    return check_launcher(spec, path.name, Path.cwd(), installed)


def _pytorch() -> tuple[str | None, list[str]]:
    """Asks PyTorch for the CUDA that it was built for, and for the GPUs that it can use."""
    import torch  # noqa: PLC0415 (slow to import)

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return str(torch.version.cuda) if torch.version.cuda else None, names


def _show(found: list["Finding"]) -> None:
    table = Table("", "where", "what, and what to do", expand=True)
    table.columns[1].ratio, table.columns[2].ratio = 2, 3
    for level, colour in COLOURS.items():
        for one in (one for one in found if one.level == level):
            fix = f"\n[bold]{escape(one.fix)}[/]" if one.fix else ""
            table.add_row(f"[{colour}]{level}[/]", escape(one.where), escape(one.what) + fix)
    console.print(table)
    counts = {level: sum(one.level == level for one in found) for level in COLOURS}
    console.print(
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} fine.",
        highlight=False,
    )


if __name__ == "__main__":
    run(app)
