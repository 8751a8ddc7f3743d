from pathlib import Path, PurePosixPath

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import (
    check_name,
    listed,
    parse_yaml,
    read_text,
    walk,
    without_made,
)

BOMB = "a: &a [1, 1, 1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9))


@pytest.mark.parametrize("text", [BOMB, "[" * 1500, "a: [", "x" * 2**21, "a: 1:2\n b: 3", "\x00"])
def test_yaml_that_is_none_or_too_much(text: str) -> None:
    with pytest.raises(UserError, match=r"^here(:| is not YAML)"):
        parse_yaml(text, "here")


def test_yaml_is_plain_values() -> None:
    assert parse_yaml("a: [1, x]", "here") == {"a": [1, "x"]}
    with pytest.raises(UserError, match="here is not YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []", "here")


@pytest.mark.parametrize("name", ["", " ", "..", ".x", "a/b", "a\\b", "c:d", "x" * 200, "a\x1b"])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(UserError, match=r"^--name "):
        check_name(name, "--name")


def test_names_may_be_of_any_script() -> None:
    assert check_name("Große 猫 set", "--name") == "Große 猫 set"


def test_text_has_no_mark_and_no_other_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfx\r\ny")
    (tmp_path / "b").write_bytes("x".encode("utf-16"))
    assert read_text(tmp_path / "a") == "x\ny"
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_text(tmp_path / "b")


def test_junk_is_not_listed(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "@eaDir/b.png", "c/d.png", "c/._d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in listed(tmp_path, "**/*.png")]
    assert found == ["a.png", "c/d.png"]


LEFT = {
    "day/masks": ("predict.json", "names.yaml", "masks/a.png"),
    "runs/first": ("sweep.yaml", "trial_000/trial.json", "k/kmeans.png", "outputs/masks/a.png"),
    "runs/one": ("trial.json", "evaluation.npz", "pictures/mosaic.png"),
    "model": ("model.yaml", "model.safetensors", "seen.png"),
    "mlartifacts": ("1/a/artifacts/pictures/mosaic.png",),
    "mlruns": ("0/a/artifacts/pictures/mosaic.png",),
}
OWN = ("a.jpg", "day/b.jpg", "runs/c.jpg", "marathon/names.yaml", "marathon/d.jpg", "x/sweep.yaml")


def test_folders_that_runs_left_are_not_entered(tmp_path: Path) -> None:
    names = [f"{folder}/{file}" for folder, files in LEFT.items() for file in files]
    for name in (*names, *OWN):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    made: list[Path] = []
    found = {path.relative_to(tmp_path).as_posix() for path in walk(tmp_path, on_made=made.append)}
    assert found == set(OWN)
    assert {path.relative_to(tmp_path).as_posix() for path in made} == LEFT.keys()
    listing = map(PurePosixPath, (*names, *OWN))
    assert {path.as_posix() for path in without_made(listing)} == set(OWN)
    # One that is named is walked.
    assert tmp_path / "model" / "seen.png" in set(walk(tmp_path / "model"))
    files = [PurePosixPath(name) for name in LEFT["model"]]
    assert list(without_made(files)) == files
