"""A page that needs nothing else: no network, no other file, no script but its own.

A content security policy lets the browser load nothing and run no other script: names in a page
come from anybody, and are escaped besides.
"""

import base64
import hashlib
from html import escape


def document(title: str, style: str, script: str, body: str) -> str:
    """Writes a page.

    Args:
        title: In the window's frame.
        style: Its style sheet.
        script: Its script.
        body: HTML, every foreign word of it escaped.

    Returns:
        The page, in UTF-8's characters.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{body}<script>{script}</script>\n</body>\n</html>\n"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
