"""Which weights AnyUp takes: those that are named, by their sha256; what is wrong in one line."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.anyup import named, random_weights
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.ops.anyup import LAYOUT
from usseg_ray.scoring.anyup_file import VARIABLE, anyup_digest, open_anyup
from usseg_ray.scoring.protocols import PLAIN, Refinement

CPU = torch.device("cpu")
ASKED = (PLAIN, Refinement.parse("flip+anyup"))


def test_both_kinds_of_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, weights = tmp_path / "anyup.pth", random_weights()
    torch.save(weights, path)
    names = [f"{path}#sha256={sha256(path.read_bytes()).hexdigest()}"]
    names.append(named(tmp_path / "anyup.safetensors"))
    for name in names:
        monkeypatch.setenv(VARIABLE, name)
        assert anyup_digest() == name[-64:]
        opened = open_anyup(ASKED, Needs(), CPU)
        assert opened is not None
        assert opened.weights.keys() == LAYOUT.keys()
        assert all(torch.equal(opened.weights[key], weights[key]) for key in LAYOUT)


def test_who_does_not_ask_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert open_anyup((PLAIN, Refinement.parse("guided")), Needs(), CPU) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", r"anyup_multi_backbone\.pth \(CC BY 4\.0\) from github\.com/wimmerth/anyup, rel"),
        ("{}/none.pth#sha256=12", r"USSEG_ANYUP: .*none\.pth: no such file"),
        ("{}/some", r"if .*/some is the file you mean, add #sha256=[0-9a-f]{64} to it"),
        ("{}/some#sha256=12", r"/some has sha256 [0-9a-f]{64}, not 12\."),
    ],
)
def test_what_is_not_named_well_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    (tmp_path / "some").write_bytes(b"weights")
    monkeypatch.setenv(VARIABLE, name.format(tmp_path))
    with pytest.raises(UserError, match=says):
        open_anyup(ASKED, Needs(), CPU)
    with pytest.raises(UserError, match=says):
        anyup_digest()


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights()
    weights["image_encoder.0.weight"] = torch.zeros(64, 3, 1, 1)
    cases = {
        "wide": (weights, r"image_encoder\.0\.weight is \(64, 3, 1, 1\), not \(128, 3, 1, 1\)"),
        "few": ({"rope.freqs": weights["rope.freqs"]}, r" is missing, not \("),
        "more": (random_weights() | {"a": torch.zeros(2)}, r"a is \(2,\), not among its weights"),
    }
    for name, (held, says) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(held, path)
        monkeypatch.setenv(VARIABLE, f"{path}#sha256={sha256(path.read_bytes()).hexdigest()}")
        with pytest.raises(UserError, match=says):
            open_anyup(ASKED, Needs(), CPU)


@pytest.mark.parametrize(
    ("suffix", "says"),
    [("pth", "holds what no checkpoint of tensors does"), ("safetensors", "cannot be read")],
)
def test_what_is_no_file_of_weights_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, says: str
) -> None:
    path = tmp_path / f"some.{suffix}"
    path.write_bytes(b"weights")
    monkeypatch.setenv(VARIABLE, f"{path}#sha256={sha256(b'weights').hexdigest()}")
    with pytest.raises(UserError, match=rf"USSEG_ANYUP: .* {says}"):
        open_anyup(ASKED, Needs(), CPU)
    # Before anything is written, too.
    with pytest.raises(UserError, match=says):
        anyup_digest()


def test_a_method_without_tokens_has_nothing_to_compare() -> None:
    with pytest.raises(UserError, match="this method reads none"):
        open_anyup(ASKED, Needs(features=False), CPU)
