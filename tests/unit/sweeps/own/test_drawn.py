"""A model's pictures are those that its own run drew of it."""

from pathlib import Path

from tests.unit.models.conftest import kept
from usseg_ray.models.description import read_description, write_description
from usseg_ray.sweeps.own.drawn import drawn, run_pictures


def laid(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_pictures_are_of_the_kept_finalist_and_of_every_k(tmp_path: Path) -> None:
    model = kept(tmp_path, "kmeans")
    assert drawn(model) == {}
    about = read_description(model)
    for trial, digest in {"trial_000": "ab" * 32, "trial_003": about.weights_sha256}.items():
        other = tmp_path / "finalists" / trial / "model" / "data" / "model"
        other.mkdir(parents=True)
        write_description(about.model_copy(update={"weights_sha256": digest}), other)
        for seed in (0, 1, 10):
            laid(tmp_path / "finalists" / f"{trial}-seed{seed}" / "test/pictures/mosaic.png")
    mosaic = tmp_path / "finalists" / "trial_003-seed0" / "test/pictures/mosaic.png"
    assert list(drawn(model).values()) == [mosaic]
    maps = laid(tmp_path / "k" / "kmeans-maps.png")
    laid(tmp_path / "k" / "acseg-maps.png")
    assert list(drawn(model).values()) == [maps, mosaic]


def test_the_closing_screen_names_what_lies_there(tmp_path: Path) -> None:
    assert run_pictures(tmp_path) == {}
    kept(tmp_path, "kmeans")
    (tmp_path / "trial_004" / "model").mkdir(parents=True)
    assert run_pictures(tmp_path) == {}
    own = laid(tmp_path / "trial_004" / "pictures/mosaic.png")
    laid(tmp_path / "trial_001" / "pictures/mosaic.png")
    maps = laid(tmp_path / "k" / "kmeans-maps.png")
    assert list(run_pictures(tmp_path).values()) == [maps, own]
