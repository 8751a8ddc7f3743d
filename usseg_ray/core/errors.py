"""Addresses without their secrets, for everything that is shown or kept.

At the bottom of the layers, since errors (`UserError`) name addresses in all of them.
"""

import re

# A user's name and password before a host, and what queries of addresses call a secret.
_USER = re.compile(r"://(?:[^/@:\s]*:[^@\s]*|[^/@\s]+)@")

_SECRET = re.compile(r"(?i)([?&;][^=&\s]*(?:passw|pwd|secret|token|key)[^=&\s]*=)[^&\s]*")


def redacted(text: str) -> str:
    """Replaces the secrets of all addresses in a text.

    Args:
        text: An address, or a message with some.

    Returns:
        The text with `***` for names and passwords before a host, and for the values of keys,
        passwords and tokens after a `?`.
    """
    return _SECRET.sub(r"\1***", _USER.sub("://***@", text))


class UserError(Exception):
    """Something that the user can mend; its one or two lines say what, where and how.

    Args:
        message: The lines; the secrets of addresses in them are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
