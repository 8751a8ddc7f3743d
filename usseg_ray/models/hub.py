"""Models on the Hugging Face Hub: `hf://OWNER/NAME`, fetched and pushed through its own client."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.features.zoo import huggingface_hub
from usseg_ray.models.description import MODEL_FILE, read_description

HUB = "hf://"

_FILES = [MODEL_FILE, "*.safetensors", "README.md"]
"""What of a repository is fetched: nothing of it is ever run."""

_TIMEOUT_S = 10.0


def fetch(place: str, *, endpoint: str | None = None) -> Path:
    """Fetches a model into the Hub's cache, or finds it there.

    Args:
        place: `hf://OWNER/NAME`, and `@REVISION` if it is not to be the latest.
        endpoint: Address of another server than the Hub.

    Raises:
        UserError: There is none, or the Hub is out of reach.
    """
    repository, revision = _named(place)
    api = _client(endpoint)
    with _explained(place, "fetched"):
        found = api.snapshot_download(
            repository, revision=revision, allow_patterns=_FILES, etag_timeout=_TIMEOUT_S
        )
    folder = Path(found)
    if not (folder / MODEL_FILE).is_file():
        raise UserError(f"{place}: no model of usseg_ray ({MODEL_FILE} is not in it).")
    return folder


def push(folder: Path, place: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Uploads a model.

    Args:
        folder: Of the model.
        place: `hf://OWNER/NAME`; made where it is missing.
        private: Whether a repository that is made is for its owner alone.
        endpoint: Address of another server than the Hub.

    Returns:
        Its address.

    Raises:
        UserError: The folder has no model, nobody is logged in, or the Hub is out of reach.
    """
    read_description(folder)
    repository, revision = _named(place)
    api = _client(endpoint)
    with _explained(place, "uploaded"):
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=_FILES,
            commit_message="Upload a model of usseg_ray",
        )
    return str(url)


def _named(place: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", place)
    if found is None:
        raise UserError(f"{place}: expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.")
    return found[1], found[2]


def _client(endpoint: str | None) -> Any:  # noqa: ANN401 (typed by the Hub's client alone)
    if find_spec("huggingface_hub") is None:
        raise UserError('The Hub needs a package that is missing: pip install "usseg-ray[hub]".')
    return huggingface_hub.HfApi(endpoint=endpoint)


@contextmanager
def _explained(place: str, done: str) -> Iterator[None]:
    """Words what the Hub or the way to it refuses."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 (as in `_client`)

    # The first is what the client's own HTTP library raises, whichever that is in its version.
    failures: tuple[type[Any], ...] = (HfHubHTTPError.__bases__[0], HfHubHTTPError, OSError)
    try:
        yield
    except failures as error:
        raise UserError(
            f"{place}: cannot be {done} ({first_line(error)[:160]}). Look at its name and the "
            "connection; what is private, and all writing, takes a token (hf auth login)."
        ) from None
