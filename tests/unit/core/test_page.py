"""A page loads nothing, and runs its own script alone."""

import base64
import hashlib

from usseg_ray.core.page import document


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_it_allows_its_own_style_and_script_and_nothing_else() -> None:
    page = document("a <b>", "p { }", "let a = 1;", "<p>x</p>")
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{digest('p { }')}'",
        f"script-src '{digest('let a = 1;')}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "<title>a &lt;b&gt;</title>" in page
    assert "<p>x</p><script>let a = 1;</script>" in page
