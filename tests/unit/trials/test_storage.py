from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri
from usseg_ray.trials.storage import Storage, below, opened


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return (tmp_path / "bucket" / "run").as_uri()


def write(folder: Path, name: str, text: str = "x") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_places_are_told_apart_and_extended() -> None:
    assert is_uri("s3://bucket/run")
    assert not is_uri("/runs/s3")
    assert below("/runs/a", "trial_000") == "/runs/a/trial_000"
    assert below("s3://b/a/", "t/x") == "s3://b/a/t/x"
    options = "endpoint_override=http://127.0.0.1:1&region=eu"
    assert below(f"s3://b/a?{options}", "t") == f"s3://b/a/t?{options}"


@pytest.mark.parametrize("place", ["none://ID:SECRET@b/run", "s3://ID:SECRET@b/run?no_option=1"])
def test_errors_name_a_place_without_its_secrets(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match=r"://\*\*\*@b/run") as error:
        Storage(tmp_path, place).files()
    assert "SECRET" not in str(error.value)


def test_what_is_complete_is_found_again_elsewhere(tmp_path: Path, uri: str) -> None:
    here = Storage(tmp_path / "here", uri)
    for name in ("train/epoch_1/checkpoint.pt", "train/epoch_1/.half", "a.json", "b.json"):
        write(here.folder, name, name)
    here.push("train/epoch_1", "a.json", "missing")
    assert names(tmp_path / "bucket" / "run") == ["a.json", "train/epoch_1/checkpoint.pt"]
    assert here.files() == ["a.json"]

    with opened(uri) as there:
        assert there.folders("train") == ["epoch_1"]
        assert there.folders("missing") == []
        there.fetch("train", "a.json", "missing")
        assert names(there.folder) == ["a.json", "train/epoch_1/checkpoint.pt"]
        assert (there.folder / "a.json").read_text() == "a.json"
    assert not there.folder.exists()


def test_no_other_checkpoint_is_kept(tmp_path: Path, uri: str) -> None:
    storage = Storage(tmp_path / "here", uri)
    for epoch in (1, 2, 3):
        write(storage.folder, f"train/epoch_{epoch}/checkpoint.pt")
        storage.push(f"train/epoch_{epoch}")
    write(storage.folder, "train/.epoch_4/checkpoint.pt")
    storage.keep_only("train", ["epoch_2", "epoch_3"])
    assert storage.folders("train") == ["epoch_2", "epoch_3"]
    kept = ["train/epoch_2/checkpoint.pt", "train/epoch_3/checkpoint.pt"]
    assert names(storage.folder) == kept


def test_records_of_all_trials_are_fetched_by_name(tmp_path: Path, uri: str) -> None:
    driver = Storage(tmp_path / "driver", uri)
    for name in ("final.json", "trial_000/trial.json", "trial_001/trial.json", "trial_001/x.npz"):
        write(driver.folder, name)
    driver.push("final.json", "trial_000", "trial_001")
    again = Storage(tmp_path / "again", uri)
    again.fetch_named("final.json", "trial.json")
    assert names(again.folder) == ["final.json", "trial_000/trial.json", "trial_001/trial.json"]


def test_a_folder_is_its_own_storage(tmp_path: Path) -> None:
    with opened(str(tmp_path)) as storage:
        assert storage.place == str(tmp_path)
        write(tmp_path, "train/epoch_1/checkpoint.pt")
        (tmp_path / "train" / ".epoch_2").mkdir()
        storage.push("train")
        storage.fetch("train")
        storage.fetch_named("train")
        assert storage.folders("train") == ["epoch_1"]
    assert names(tmp_path) == ["train/epoch_1/checkpoint.pt"]


def test_an_unknown_place_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere://x"):
        Storage(tmp_path, "nowhere://x").files()
