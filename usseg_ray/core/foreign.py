"""Text from elsewhere, such as a class's name or a file's: shown as what it is, and never obeyed.

A terminal acts on control characters: a name that carries them could clear the screen, rename the
window or hide a line. Markdown acts on signs. Whatever is printed or written goes through here.
"""

import re
import unicodedata

_TURNS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Marks of direction: they turn around how a line is read."""

_ACTS = re.compile(f"[\0-\x08\x0b-\x1f\x7f-\x9f{_TURNS}\ud800-\udfff]")

# An underscore inside a word is shown as it is.
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")


def is_shown(text: str) -> bool:
    """Tells whether a text has neither control characters nor halves of letters."""
    return all(unicodedata.category(letter) not in ("Cc", "Cs") for letter in text)


def printable(text: str) -> str:
    r"""Writes control characters, halves of letters and marks of direction as `\x1b` and the like.

    Args:
        text: Anything.

    Returns:
        The text, with line ends and tabs as they were.
    """
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_one_line(text: str) -> str:
    """Writes a text as `printable` does, with spaces for line ends and tabs."""
    return printable(re.sub(r"[\n\t\u2028\u2029]", " ", text))


def markdown_safe(text: str) -> str:
    """Writes a text so that Markdown shows it as it is: in one line, without links, styles or HTML.

    Args:
        text: Anything.
    """
    return _MARKS.sub(r"\\\g<0>", in_one_line(text)).replace("<", "&lt;")
