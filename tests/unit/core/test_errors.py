import pytest

from usseg_ray.core.errors import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "s3://ID:a/b+c@bucket/run: cannot be read (no such host).",
            "s3://***@bucket/run: cannot be read (no such host).",
        ),
        (
            "--out s3://b/x?secret_key=abc&region=eu is not empty: --resume s3://b/x?secret_key=abc",
            "--out s3://b/x?secret_key=***&region=eu is not empty: --resume s3://b/x?secret_key=***",
        ),
        ("s3://bucket/run: ask me@host.", "s3://bucket/run: ask me@host."),
        ("http://127.0.0.1:5000: no answer; a@b", "http://127.0.0.1:5000: no answer; a@b"),
    ],
)
def test_messages_keep_everything_but_secrets(text: str, shown: str) -> None:
    assert redacted(text) == shown
