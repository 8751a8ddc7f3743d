"""Addresses without their secrets, for everything that is shown or kept.

At the bottom of the layers, since errors (`UserError`) name addresses in all of them.
"""

import re

_SECRET_NAME = r"(?:passw|pwd|secret|credential|signature|api_?key|access_?key|auth_?key)"
_RULES = (
    # A user's name and password before a host; the password may have any sign in it.
    (re.compile(r"://(?:[^/@:\s]*:(?!\d{1,5}(?:[/?#\s]|$))\S*|[^/@\s]+)@"), "://***@"),
    # What queries of addresses call a secret.
    (
        re.compile(rf"(?i)([?&;](?:[^=&\s]*(?:{_SECRET_NAME}|token|key)[^=&\s]*|sig|sas)=)[^&\s]*"),
        r"\1***",
    ),
    # Connection strings, shell assignments and JSON.
    (
        re.compile(rf"(?i)(\b\w*{_SECRET_NAME}\w*[\"']?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s&;,]+)"),
        r"\1***",
    ),
    (re.compile(r"(?i)(\b\w*token\s*=\s*)[^\s&;,]+"), r"\1***"),
    (re.compile(r"(?i)(\bbearer\s+)\S+"), r"\1***"),
)


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


class UserError(Exception):
    """Something that the user can mend; its one or two lines say what, where and how.

    Args:
        message: The lines; the secrets of addresses in them are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
