import socket
import time
from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.data.library import cache_root, find_prepared, is_prepared
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.shards import Row, write_split


def prepare(folder: Path) -> None:
    shards = write_split(folder, "train", [Row("x", b"image", None, 1, 1)])
    manifest = Manifest(
        name=folder.name,
        classes=(),
        ignore_index=255,
        splits=split_totals(shards),
        shards=tuple(shards),
        source="a test",
    )
    save_manifest(manifest, folder)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library with the sets `cows` and `farms`; the working directory is beside it."""
    root = tmp_path / "library"
    for name in ("cows", "farms"):
        prepare(root / name)
    monkeypatch.setenv("USSEG_DATA", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_by_name_by_folder_and_by_uri(library: Path) -> None:
    folder = str(library / "cows")
    assert find_prepared("cows") == folder
    assert find_prepared(folder) == folder
    assert find_prepared("library/cows") == folder
    assert find_prepared(Path(folder).as_uri()) == Path(folder).as_uri()


def test_a_prepared_folder_wins_over_a_name(library: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "cows")
    assert find_prepared("cows") == str(tmp_path / "cows")


def test_a_folder_of_images_does_not_hide_a_name(library: Path, tmp_path: Path) -> None:
    (tmp_path / "cows").mkdir()
    (tmp_path / "cows" / "1.jpg").write_bytes(b"")
    assert find_prepared("cows") == str(library / "cows")


def test_unknown_name_says_where_what_and_how(library: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_prepared("cow")
    message = str(caught.value)
    assert f"in {library} (it has cows, farms); did you mean 'cows'?" in message
    assert f"python -m usseg_ray.prepare --source IMAGES --out {library}/cow" in message


def test_empty_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"absent \(it has none\)\.\n"):
        find_prepared("cows")


def test_raw_images_get_the_command_that_prepares_them(library: Path, tmp_path: Path) -> None:
    raw = tmp_path / "my photos"
    (raw / "train" / "images").mkdir(parents=True)
    (raw / "train" / "images" / "1.JPG").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        find_prepared(str(raw))
    assert "images that are not prepared yet" in str(caught.value)
    assert f"prepare --source '{raw}' --out '{library}/my photos'" in str(caught.value)


def test_a_folder_of_something_else(library: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"not a prepared set .* no images are in it either"):
        find_prepared("other")


def test_a_uri_without_a_set(library: Path, tmp_path: Path) -> None:
    uri = (tmp_path / "absent").as_uri()
    assert not is_prepared(uri)
    with pytest.raises(UserError, match=rf"{uri}: not a prepared set .* --out {uri}"):
        find_prepared(uri)


def test_where_the_library_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("USSEG_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_root() == tmp_path / ".cache" / "usseg_ray"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_root() == Path("/cache/usseg_ray")
    monkeypatch.setenv("USSEG_DATA", "~/sets")
    assert cache_root() == tmp_path / "sets"


@pytest.mark.parametrize("scheme", ["s3://x:y@", "gs://anonymous@"])
def test_a_bucket_out_of_reach_is_said_to_be_within_seconds(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        find_prepared(f"{scheme}bucket/cows?endpoint_override=127.0.0.1:{port}&scheme=http")
    assert time.monotonic() - start < 20
