"""Names from strangers are shown, and neither obeyed by a terminal nor read as Markdown."""

import pytest

from usseg_ray.core.foreign import in_one_line, is_shown, markdown_safe, printable


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("road", "road"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb", "a\\rb"),
        ("abc\u202etxt", "abc\\u202etxt"),
        ("\ud800", "\\ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Straße, 草, שלום, \u00a0, 👩\u200d🌾", "Straße, 草, שלום, \u00a0, 👩\u200d🌾"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, told: str) -> None:
    assert printable(text) == told
    assert printable(told) == told


def test_a_line_stays_one() -> None:
    assert in_one_line("a\nb\tc\u2028d\x1b") == "a b c d\\x1b"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a](javascript:x)", "\\[a\\](javascript:x)"),
        ("![i](http://x/y.png)", "!\\[i\\](http://x/y.png)"),
        ("a|b\n# c", "a\\|b # c"),
        ("**b** `c` _d_ ~e~", "\\*\\*b\\*\\* \\`c\\` \\_d\\_ \\~e\\~"),
        ("<img src=x>", "&lt;img src=x>"),
        ("unsup_miou", "unsup_miou"),
        ("\x1b[0m", "\\\\x1b\\[0m"),
    ],
)
def test_markdown_shows_signs_as_they_are(text: str, told: str) -> None:
    assert markdown_safe(text) == told


def test_names_that_cannot_be_shown_are_told() -> None:
    assert is_shown("Screenshot\u202fat 3\u3000草")
    assert not is_shown("a\nb")
    assert not is_shown("\udcff")
