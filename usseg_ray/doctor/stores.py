"""Checks of what a sweep reads and writes elsewhere: the tracking store, buckets, the clock."""

import email.utils
import http.client
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from usseg_ray.core.errors import redacted
from usseg_ray.doctor.finding import Finding, error, ok, warning
from usseg_ray.doctor.machine import check_folder

# Signed requests to a bucket are refused beyond minutes; logs cannot be put in order long before.
MAX_SKEW_S = 30.0
_TIMEOUT_S = 4.0
_SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
_STRANGER = "rebound.example"


def check_tracking(uri: str) -> list[Finding]:
    """Asks the tracking store: does it answer, whom does it answer, and what time is it there?

    Args:
        uri: Tracking URI; a server, or a database.

    Returns:
        Findings on reachability and, of a server, its host check and clock.
    """
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return check_folder(
            Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent
        )
    if parts.scheme not in ("http", "https"):
        return [ok("a database, not asked", parts.scheme or uri)]
    where = f"{parts.scheme}://{parts.hostname}:{_port(uri)}"
    try:
        status, date = _ask(uri, parts.netloc.rpartition("@")[2])
        stranger, _ = _ask(uri, _STRANGER)
    except (OSError, http.client.HTTPException) as problem:
        what = f"The tracking server does not answer ({problem})."
        fix = "Start it, open the tunnel (ray attach cluster.yaml -p 5000), or unset the URI."
        return [error(what, where, fix)]
    return [_answered(status, where), *_host_check(status, stranger, where), *_clock(date, where)]


def _port(uri: str) -> int:
    parts = urlsplit(uri)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _ask(uri: str, host: str) -> tuple[int, str | None]:
    parts = urlsplit(uri)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(str(parts.hostname), _port(uri), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path.rstrip("/") + _SEARCH, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Date")
    finally:
        connection.close()


def _answered(status: int, where: str) -> Finding:
    if status == 403:
        what = "The tracking server refuses its own address (a host check)."
        fix = f"mlflow server --allowed-hosts {urlsplit(where).netloc},localhost:5000 ..."
        return error(what, where, fix)
    if status == 401:
        what = "The tracking server wants a name and a password."
        return error(
            what, where, "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=..."
        )
    if status != 200:
        what = f"What answers there is no MLflow server (status {status})."
        return error(what, where, "Correct --tracking-uri or MLFLOW_TRACKING_URI.")
    return ok("the tracking server answers", where)


def _host_check(status: int, stranger: int, where: str) -> list[Finding]:
    if status != 200 or stranger != 200:
        return []
    what = "It answers under any host name: a web page can reach it through your browser."
    fix = "mlflow server --allowed-hosts NAME:PORT,..., and not '*'"
    return [warning(what, where, fix)]


def _clock(date: str | None, where: str) -> list[Finding]:
    return check_clock(date, time.time(), where) if date else []


def check_clock(date: str, now: float, where: str) -> list[Finding]:
    """Compares a server's time with this machine's.

    Args:
        date: Of an HTTP answer.
        now: Seconds since 1970, here.
        where: Whose time it is.

    Returns:
        One finding.
    """
    try:
        skew = now - email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return []
    if abs(skew) > MAX_SKEW_S:
        what = f"The clocks are {abs(skew):.0f} s apart; a bucket refuses requests from the future."
        return [error(what, where, "sudo timedatectl set-ntp true, on both machines")]
    return [ok(f"clocks agree within {abs(skew) + 1:.0f} s", where)]


def check_place(uri: str, patience_s: float = 10.0) -> list[Finding]:
    """Looks for a bucket or folder that a variable or an option names.

    Args:
        uri: A path, or any URI of `pyarrow.fs`.
        patience_s: How long to wait; cloud libraries try for minutes.

    Returns:
        One finding.
    """
    if "://" not in uri:
        return check_folder(Path(uri).expanduser().absolute())
    answer: dict[str, Any] = {}

    def look() -> None:
        from usseg_ray.core.files import resolve  # noqa: PLC0415 (pyarrow)

        try:
            filesystem, path = resolve(uri)
            answer["type"] = filesystem.get_file_info(path).type.name
        except Exception as problem:  # noqa: BLE001 (whatever a cloud's library raises)
            answer["why"] = " ".join(str(problem).split())[:200]

    asking = threading.Thread(target=look, daemon=True)
    asking.start()
    asking.join(patience_s)
    fix, shown = "Check its name, the region, and this machine's right to read it.", redacted(uri)
    if "type" not in answer:
        why = answer.get("why", f"no answer in {patience_s:.0f} s")
        return [error(f"It cannot be reached ({redacted(why)}).", shown, fix)]
    if answer["type"] == "NotFound":
        return [warning("It is not there yet.", shown, fix)]
    return [ok("it can be reached", shown)]
