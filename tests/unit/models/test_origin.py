"""What another method may start from: a model with codes, of the same backbone and frame."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.unit.models.conftest import kept
from usseg_ray.core.errors import UserError
from usseg_ray.models.folder import WEIGHTS_FILE, read_model, save_model
from usseg_ray.models.origin import origin_of


@pytest.fixture(scope="module")
def stego(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(tmp_path_factory.mktemp("stego"), "stego")


def test_a_model_is_described_by_its_own_settings_and_weights(stego: Path) -> None:
    origin, weights = origin_of(stego, tiny.config("primaps"))
    assert weights == stego / WEIGHTS_FILE
    assert origin.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (origin.method, origin.num_clusters, origin.settings["dim"]) == ("stego", 3, 8)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"backbone__patch_size": 16}, r"another backbone \(backbone.patch_size 8, here 16\)"),
        ({"data__eval_size": 64}, r"sees images at 32 px, bilinear, and this run at 64 px"),
    ],
)
def test_another_backbone_or_frame_is_refused_in_a_line(
    stego: Path, settings: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(UserError, match=refusal) as raised:
        origin_of(stego, tiny.config("primaps", **settings))
    assert "\n" not in str(raised.value)


def test_a_model_without_codes_and_a_missing_one_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model of kmeans.* one of: stego, hp, cause, equss"):
        origin_of(model, tiny.config("primaps"))
    with pytest.raises(UserError, match="no model"):
        origin_of(tmp_path, tiny.config("primaps"))


def test_a_ppap_is_taken_where_its_block_reads_tokens(stego: Path, tmp_path: Path) -> None:
    about, state = read_model(stego)
    others = {key: value for key, value in about.config.items() if not key.startswith("method.")}
    for block in ("new", "copy"):
        ppap = {"method": "ppap", "config": {**others, "method.block": block}}
        save_model(tmp_path / block, about.model_copy(update=ppap), state)
    origin, _ = origin_of(tmp_path / "new", tiny.config("primaps"))
    assert origin.settings["block"] == "new"
    with pytest.raises(
        UserError, match=r"ppap, whose codes .*ppap.*: trained .*block=new"
    ) as raised:
        origin_of(tmp_path / "copy", tiny.config("primaps"))
    assert "no codes" not in str(raised.value)
