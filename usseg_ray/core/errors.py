"""What errors say: addresses without their secrets, and the name that may have been meant.

At the bottom of the layers, since `UserError` names addresses in all of them.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

HIDDEN = "***"
"""What stands for a secret."""

_SECRET_NAME = (
    r"(?:passw|pwd|secret|credential|signature|private[-_]?key|api[-_]?key|access[-_]?key"
    r"|account[-_]?key|auth[-_]?key)"
)
_IS = r"(?:=|%3D)"
_RULES = (
    # A user's name and password before a host; the password may have any sign in it.
    (
        re.compile(r"://(?:[^/@:\s]{0,256}:(?!\d{1,5}(?:[/?#\s]|$))\S{0,1024}|[^/@\s]{1,1024})@"),
        f"://{HIDDEN}@",
    ),
    # What queries of addresses call a secret.
    (
        re.compile(
            rf"(?i)((?:[?&;]|%3F|%26)(?:[^=&\s]{{0,64}}?(?:{_SECRET_NAME}|token|key)[^=&\s]{{0,64}}?|sig|sas){_IS})"
            r"[^&\s]*"
        ),
        rf"\1{HIDDEN}",
    ),
    # Headers, connection strings, shell assignments and JSON.
    (
        re.compile(
            r"(?i)(\bauthorization[\"']?\s{0,9}[:=]\s{0,9}[\"']?(?:\w{1,64}\s{1,9})?)[^\s\"']+"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            rf"(?i)(\b\w{{0,64}}{_SECRET_NAME}\w{{0,64}}[\"']?\s{{0,9}}(?:[=:]|%3D)\s*)"
            r"('[^']*'|\"[^\"]*\"|[^\s&;,]+)"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(rf"(?i)(\b\w{{0,64}}token\s{{0,9}}{_IS}\s{{0,9}})[^\s&;,]+"), rf"\1{HIDDEN}"),
    (
        # A word of a message ("TOKEN: expected ...") is short and has no digit.
        re.compile(
            r"(?i)(\b\w{0,64}token[\"']?\s{0,9}:\s{0,9})"
            r"(?:[\"']?(?=[\w.~+/=-]{0,64}\d)[\w.~+/=-]{8,}|[\"']?[\w.~+/=-]{20,})[\"']?"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(rf"(?i)(--\w{{0,64}}(?:{_SECRET_NAME}|token)\w{{0,64}}\s{{1,9}})\S+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)(\bbearer\s{1,9})\S+"), rf"\1{HIDDEN}"),
    # Keys that are known by their form, wherever they stand.
    (
        re.compile(r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----.*", re.DOTALL),
        HIDDEN,
    ),
    (re.compile(r"\b(?:hf_|gh[a-z]_|github_pat_|glpat-|sk-)[\w-]{20,}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,4096}\.[\w-]{8,4096}\.[\w-]{8,}"), HIDDEN),
)


_NAME_ALONE = re.compile(r"://[^/@:\s]+@")


def redacted(text: str) -> str:
    """Replaces the secrets of all addresses, connection strings and headers in a text.

    Args:
        text: An address, or a message with some.

    Returns:
        The text with `***` for names and passwords before a host, and for the values of keys,
        passwords, signatures and tokens. Where a secret's end is in doubt, more is hidden.
    """
    for rule, shown in _RULES:
        text = rule.sub(shown, text)
    return text


def carries_secret(address: str) -> bool:
    """Says whether an address has a password or a key in it; a user's name alone is none."""
    nameless = _NAME_ALONE.sub("://", address)
    return redacted(nameless) != nameless


class UserError(Exception):
    """Something that the user can mend; its one or two lines say what, where and how.

    Args:
        message: The lines; the secrets of addresses in them are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class SettingError(UserError):
    """A setting that does not exist, or whose value is wrong.

    Args:
        message: The lines.
        key: The setting, as a dotted key; of what is wrong between several, their group.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def about(what: str) -> Iterator[None]:
    """Puts before an error what it is about, if anything is named."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}" if what else str(error)) from None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = ".", most: int = 1) -> str:
    """Ends the sentence that says a name is unknown.

    Args:
        name: What was asked.
        known: The names that there are.
        otherwise: The end where none of them is near.
        most: How many near ones are named; of equally near ones those that come first in `known`.
    """
    order = list(known)
    near = difflib.get_close_matches(name, order, n=max(1, len(order)), cutoff=0.5)
    near.sort(key=lambda one: (-difflib.SequenceMatcher(None, one, name).ratio(), order.index(one)))
    near = near[:most]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Words the error for a name that does not exist: the nearest one, and all.

    Args:
        kind: What it would name, such as `method`.
        name: What was asked.
        known: The names that there are.
    """
    names = list(known)
    hint, listed = did_you_mean(name, names), ", ".join(names)
    return UserError(f"Unknown {kind}: {name!r}{hint} {kind.capitalize()}s: {listed}.")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Words the error for a key that does not exist, with the nearest one that does."""
    known = list(known)
    alike = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    last = f"; did you mean {alike[0]!r}?" if alike else "; --dry-run --keys prints every key."
    return f"Unknown key: {key!r}{did_you_mean(key, known, last)}"
