"""Who may ask: this machine alone, or whoever shows a token."""

import hmac
import ipaddress
from collections.abc import MutableMapping
from pathlib import Path

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import read_text

VARIABLE = "USSEG_SERVE_TOKEN"

MIN_TOKEN = 16
"""Characters; of hexadecimal digits as many are 64 bits."""

_MAX_TOKEN_BYTES = 4096

_BEARER = "bearer "


def read_token(file: Path | None, environment: MutableMapping[str, str]) -> str | None:
    """Reads the token that clients have to show.

    Args:
        file: Holds it; the variable does if this is unset.
        environment: The token's variable is taken out of it: what is started later inherits it
            otherwise.

    Returns:
        The token; `None` if neither is given.

    Raises:
        UserError: The file is missing, or what is given is no token; it is not quoted.
    """
    given = environment.pop(VARIABLE, None)
    if file is not None:
        given = _read(file)
    if given is None:
        return None
    token, where = given.strip(), f"--token-file {file}" if file is not None else VARIABLE
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{where}: expected one token of at least {MIN_TOKEN} letters, digits and signs "
            "(openssl rand -hex 32)."
        )
    return token


def _read(file: Path) -> str:
    try:
        return read_text(file, _MAX_TOKEN_BYTES)
    except FileNotFoundError:
        raise UserError(f"--token-file {file}: no such file.") from None


def is_loopback(host: str) -> bool:
    """Tells whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str, token: str | None) -> None:
    """Lets nobody be reached from outside without a token.

    Raises:
        UserError: That is what was asked for.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, and there is no token.\n"
            f"Give one by --token-file or {VARIABLE}; clients show it (Authorization: Bearer)."
        )


def admits(token: str, header: str) -> bool:
    """Tells whether an `Authorization` header shows the token, in a time that tells nothing of it.

    Args:
        token: That of the server.
        header: As it came; empty if there is none.
    """
    shown = header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""
    return hmac.compare_digest(shown.encode(), token.encode())
