import pickle
import re
import time

import pytest

from usseg_ray.core.errors import (
    SettingError,
    UserError,
    about,
    carries_secret,
    did_you_mean,
    redacted,
    unknown_key,
    unknown_name,
)


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


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://anna:HUNTER@db/mlflow",
        "postgresql://anna:HUN@TER@db:5432/mlflow",
        "postgresql://anna:HU/NT@ER@db:5432/mlflow",
        "s3://HUNTER:a/b+HUNTER@bucket/run",
        "https://HUNTER@host/api",
        "https://x.blob.core.windows.net/c?sv=2024&sig=HUNTER%3D&se=2027",
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=HUNTER&X-Amz-Signature=HUNTER",
        "gs://b?access_token=HUNTER",
        "host=db user=anna password=HUNTER dbname=mlflow",
        "host=db password='HUN TER' user=anna",
        "AWS_SECRET_ACCESS_KEY=HUNTER python -m usseg_ray.tune",
        "MLFLOW_TRACKING_TOKEN=HUNTER: not valid",
        '{"user": "anna", "password": "HUNTER"}',
        "Authorization: Bearer HUNTER",
        "Authorization: Basic HUNTER",
        "X-API-Key: HUNTER",
        "HF_TOKEN: HUNTER99",
        '{"token": "HUNTER99"}',
        "--password HUNTER --host db",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=HUNTER==",
        "callback%3Fsig%3DHUNTER",
        "aws_secret_access_key: HUNTER",
        "given hf_HUNTERabcdefghijklmnop12345, refused",
        "ghp_HUNTERa1B2a1B2a1B2a1B2a1B2a1B2",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.HUNTER99",
        "-----BEGIN RSA PRIVATE KEY-----\nHUN\nTER\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_no_form_of_a_secret_is_shown(text: str) -> None:
    shown = redacted(text)
    assert "***" in shown
    assert not re.search("HU|NT|ER$|TER", shown)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/models/road@champion",
        "--set method.num_tokens=3 --set data.key_frames=2",
        "models:/road@champion",
        "s3://bucket/run: cannot be read",
        "RAY_AUTH_MODE=token, and there is no token. Copy that of whoever started the cluster.",
        "num_tokens: 4, keys: all, tokens: 12 of 16",
        "python -m usseg_ray.tune --method acseg --seeds 7 --keys --dry-run",
        "backbone.weights = skip-connections-of-the-first-network.safetensors",
        "Unknown key: 'method.gama'; did you mean 'method.gamma'?",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("part", ["?", "://a:", "-", "token", "eyJ", "?token", "authorization "])
def test_a_long_text_takes_no_long_time(part: str) -> None:
    started = time.monotonic()
    redacted(part * 5000)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("address", "carries"),
    [
        ("s3://ID:a/b+c@bucket/run", True),
        ("s3://bucket/run?secret_key=abc&region=eu", True),
        ("postgresql://anna:pw@db:5432/mlflow", True),
        ("gs://anonymous@bucket/run", False),
        ("s3://bucket/run?endpoint_override=127.0.0.1:9000&scheme=http", False),
        ("http://127.0.0.1:5000", False),
        ("prepared/me@home", False),
    ],
)
def test_an_address_that_carries_a_secret_is_told_from_others(address: str, carries: bool) -> None:
    assert carries_secret(address) == carries


def test_the_nearest_name_is_offered() -> None:
    assert did_you_mean("kmean", ["acseg", "kmeans"]) == "; did you mean 'kmeans'?"
    assert did_you_mean("stego", ["stego-320", "stego-322"]) == "; did you mean 'stego-320'?"
    assert did_you_mean("xyz", ["acseg", "kmeans"]) == "."
    assert did_you_mean("xyz", [], "; see --help.") == "; see --help."


def test_an_unknown_name_is_told_with_all_that_there_are() -> None:
    expected = "Unknown method: 'kmean'; did you mean 'kmeans'? Methods: acseg, kmeans."
    assert str(unknown_name("method", "kmean", ["acseg", "kmeans"])) == expected


def test_a_message_about_a_token_can_be_read() -> None:
    said = "USSEG_SERVE_TOKEN: expected one token; --token-file run/token: unreadable"
    assert redacted(said) == said
    assert "5f2b8c1d" not in redacted("token: 5f2b8c1d")
    assert "abcdefgh" not in redacted(f"token: {'abcdefgh' * 3}")


def test_a_key_like_no_other_names_where_keys_are_listed() -> None:
    told = "Unknown key: 'zzzzzz'; --dry-run --keys prints every key."
    assert unknown_key("zzzzzz", ["seed"]) == told


def test_a_wrong_setting_is_named_after_it_travelled() -> None:
    error = pickle.loads(pickle.dumps(SettingError("seed = -1: too small", "seed")))
    assert (str(error), error.key) == ("seed = -1: too small", "seed")


def test_an_error_says_what_it_is_about_if_that_has_a_name() -> None:
    with pytest.raises(UserError, match=r"^acseg: no$"), about("acseg"):
        raise UserError("no")
    with pytest.raises(UserError, match=r"^no$"), about(""):
        raise UserError("no")
