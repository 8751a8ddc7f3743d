"""Checks of who may reach what: the token, open ports, the jobs API, the Ray client's port.

Ray's ports run programs for whoever may use them, so a port that is open without a token is a
shell for strangers.
"""

import json
import stat
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from usseg_ray.cluster.join import CLIENT, ask, listens, own_token
from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import read_text
from usseg_ray.doctor.finding import Finding, error, ok, warning

PORTS = {
    5000: "MLflow",
    6379: "Ray's control service",
    8265: "Ray's dashboard and jobs API",
    10001: "Ray's client server",
}
# What other machines of a cluster must reach; with a token it may listen on more than loopback.
_NEEDED = (6379,)
_CLIENT_PORT = 10001
_EVERYWHERE = ("0.0.0.0", "::", "*")
_TIMEOUT_S = 4.0
_MAKE_TOKEN = "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token"


def check_token(environment: Mapping[str, str], home: Path, *, cluster: bool) -> list[Finding]:
    """Looks at the token mode, and at the token's file and who may read it.

    Args:
        environment: Variables of this process.
        home: The user's folder.
        cluster: Whether a cluster beyond this machine is meant; on one machine Ray makes a token
            where it needs one.

    Returns:
        A finding for the mode and one for the token.
    """
    mode = environment.get("RAY_AUTH_MODE", "")
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    found = []
    if mode == "token":
        found.append(ok("token", "RAY_AUTH_MODE"))
    elif mode == "disabled":
        found.append(
            error(
                "Tokens are switched off: whoever reaches a port of Ray runs any program.",
                "RAY_AUTH_MODE",
                "export RAY_AUTH_MODE=token",
            )
        )
    elif cluster:
        what = "Without it a cluster with a token answers 'Failed to connect', after 20 s."
        found.append(error(what, "RAY_AUTH_MODE", "export RAY_AUTH_MODE=token"))
    if environment.get("RAY_AUTH_TOKEN"):
        return [*found, ok("in the environment", "RAY_AUTH_TOKEN")]
    if not path.is_file():
        lacking = error("There is no token.", str(path), _MAKE_TOKEN)
        return [*found, lacking] if cluster or mode == "token" else found
    return [*found, _token_file(path)]


def _token_file(path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        what = f"Others may read the token: its mode is {mode:03o}."
        return error(what, str(path), f"chmod 600 {path}")
    try:
        empty = not read_text(path).strip()
    except UserError as problem:
        return error(f"The token is none: {problem}", str(path), f"rm {path} && {_MAKE_TOKEN}")
    if empty:
        return error("The token is empty.", str(path), f"rm {path} && {_MAKE_TOKEN}")
    return ok("its owner's alone", str(path))


def listening() -> list[tuple[str, int]]:
    """Lists address and port of everything on this machine that accepts TCP connections."""
    found = psutil.net_connections("tcp")
    return sorted(
        {(c.laddr.ip, c.laddr.port) for c in found if c.laddr and c.status == psutil.CONN_LISTEN}
    )


def check_ports(*, token_mode: bool) -> list[Finding]:
    """Looks for ports of Ray and MLflow on this machine that listen beyond loopback.

    Args:
        token_mode: Whether Ray asks for a token.

    Returns:
        As `check_bindings`; a warning where the system does not say which ports listen.
    """
    try:
        bindings = listening()
    except psutil.AccessDenied:
        what = "Which ports listen cannot be seen without root here."
        return [warning(what, "ports", "sudo lsof -nP -iTCP -sTCP:LISTEN lists them.")]
    return check_bindings(bindings, token_mode=token_mode)


def check_bindings(
    bindings: Iterable[tuple[str, int]],
    ports: Mapping[int, str] = PORTS,
    *,
    token_mode: bool,
) -> list[Finding]:
    """Finds ports of Ray and MLflow that listen beyond loopback.

    Args:
        bindings: Addresses and ports that listen.
        ports: Port -> what listens there.
        token_mode: Whether Ray asks for a token.

    Returns:
        A finding for each that is open, or one `ok`.
    """
    found = []
    for address, port in bindings:
        plain = address.removeprefix("::ffff:")
        if port not in ports or plain.startswith("127.") or plain == "::1":
            continue
        where = f"{address}:{port}"
        if port in _NEEDED and token_mode and plain not in _EVERYWHERE:
            found.append(ok(f"{ports[port]}, with a token", where))
        elif port in _NEEDED and token_mode:
            what = f"{ports[port]} listens on every interface, with a token but unencrypted."
            found.append(warning(what, where, "Close it to all but the cluster's machines."))
        else:
            what = f"{ports[port]} listens beyond this machine."
            fix = "Start it on 127.0.0.1, and reach it through `ray dashboard` or ssh -L."
            found.append(error(what, where, fix))
    return found or [ok("no port of Ray or MLflow listens beyond this machine", "ports")]


def check_dashboard(url: str, own_ray: str | None) -> list[Finding]:
    """Looks at a running cluster from outside: its jobs API, and the Ray client port beside it.

    Args:
        url: `http://host:port` of the dashboard.
        own_ray: Ray's version here.

    Returns:
        Findings on both.
    """
    host = urlsplit(url).hostname or "127.0.0.1"
    return [*check_jobs_api(url, own_token(), own_ray), *check_client_port(host)]


def check_jobs_api(url: str, token: str | None, own_ray: str | None) -> list[Finding]:
    """Asks a cluster's jobs API with and without the token, and for its Ray version.

    Args:
        url: `http://host:port` of the dashboard.
        token: The user's token, if there is one.
        own_ray: Ray's version here.

    Returns:
        What is wrong; one `ok` where nothing is.
    """
    try:
        if _get(f"{url}/api/jobs/", None)[0] == 200:
            what = "The jobs API runs programs for whoever asks, without a token."
            fix = "ray down, and start with RAY_AUTH_MODE=token before both `ray start`"
            return [error(what, url, fix)]
        status, text = _get(f"{url}/api/version", token)
    except OSError as problem:
        what = f"Nothing answers there ({_reason(problem)})."
        return [
            error(what, url, "ray dashboard cluster.yaml opens the tunnel; ray up the cluster.")
        ]
    if status != 200:
        what = f"The cluster refuses this token (status {status})."
        return [error(what, url, "Copy the token of whoever started it to ~/.ray/auth_token.")]
    version = _field(text, "ray_version")
    if version != own_ray:
        what = f"The cluster runs Ray {version}, here is {own_ray}."
        return [error(what, url, f"pip install 'ray[default]=={version}'")]
    return [ok(f"Ray {version}, and strangers are refused", url)]


def _get(url: str, token: str | None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        asked = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as answer:
            return answer.status, answer.read(100_000).decode("utf-8", "replace")
    except urllib.error.HTTPError as refused:
        return refused.code, ""


def _field(text: str, name: str) -> str | None:
    try:
        return str(json.loads(text)[name])
    except (ValueError, KeyError, TypeError):
        return None


def _reason(problem: OSError) -> str:
    return str(getattr(problem, "reason", problem)) or type(problem).__name__


def check_client_port(host: str) -> list[Finding]:
    """Asks Ray's client server, which this project never uses, whether it lets strangers in.

    Args:
        host: A cluster's head.

    Returns:
        One finding.
    """
    where = f"{host}:{_CLIENT_PORT}"
    if not listens(host, _CLIENT_PORT):
        return [ok("Ray's client port is closed", where)]
    answer = ask(host, _CLIENT_PORT, CLIENT, None)
    if answer == "refused":
        return [ok("Ray's client server asks for a token", where)]
    if answer == "open":
        what = "Ray's client server runs programs for whoever asks, without a token."
        fix = "ray down, and start with RAY_AUTH_MODE=token before both `ray start`"
        return [error(what, where, fix)]
    what = "Something listens on Ray's client port; whether it asks for a token is not known."
    return [warning(what, where, "pip install 'usseg-ray[cluster]', which can ask it.")]
