"""The options that `tune` and `train` share. Nothing heavy is imported, so `--help` is quick."""

from pathlib import Path
from typing import Annotated

import typer

SHARED = ("__init__", "base", "codes")
METHODS = sorted(
    path.stem
    for path in (Path(__file__).parent / "methods").glob("*.py")
    if path.stem not in SHARED
)

MethodName = Annotated[
    str | None, typer.Option(help=f"One of: {', '.join(METHODS)}.", show_default="acseg")
]
MethodNames = Annotated[
    str | None,
    typer.Option(
        help=f"One or several, with commas between them: {', '.join(METHODS)}. `all`: all but the "
        "floors, which stand beside every sweep.",
        show_default="acseg",
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A method's published settings for a data set, e.g. acseg-voc2012; below --space and "
        "--set.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="A prepared set: a folder or URI, or a name under $USSEG_DATA. "
        "`synthetic` is built in and needs nothing."
    ),
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set any config key, e.g. --set method.gamma=1.5; may be repeated. "
        "--dry-run lists all keys.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        help="Folder of this run, or a URI such as s3://bucket/name, which needs no folder that "
        "all machines share; ./runs/METHOD-DATA-TIME if unset."
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Go on with a run: its name under ./runs, folder or URI. Ended trials are kept.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda (short for --set resources.device=...).")
]
Precision = Annotated[
    str | None,
    typer.Option(help="auto, float32 or bfloat16 (short for --set resources.precision=...)."),
]
WorkersPerTrial = Annotated[
    str | None,
    typer.Option(
        metavar="auto|0|N|MIN-MAX",
        help="0: a trial trains in its own process, which starts quickly; N: N processes train it "
        "together; MIN-MAX: as many as there is room for; auto: 0 for trials under a minute, else "
        "1 (short for --set resources.num_workers=...).",
        show_default="auto",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything (short for --set seed=...).")]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI, else SQLite in this folder, if unset."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved config and the trials, and stop.")
]
