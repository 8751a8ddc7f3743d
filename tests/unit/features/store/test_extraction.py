import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.features import (
    BACKBONE,
    FRAME,
    HERE,
    IMAGES,
    NUM_SHARDS,
    everything,
    obtain,
    vit,
    wanted,
)
from usseg_ray.core.config import Attention, DataConfig, JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.core.views import Crops
from usseg_ray.data.manifest import load_manifest
from usseg_ray.data.reader import Reader
from usseg_ray.data.reading import Showing, read_piece
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.features.store import blocks as feature_files
from usseg_ray.features.store.extraction import Extractor, features_here, want, write_missing
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import Part, Views
from usseg_ray.features.store.store import FeatureStore
from usseg_ray.ops.photometric import photometric_views

CPU = torch.device("cpu")
EVERYTHING: tuple[Part, ...] = ("tokens", "saliency_cls", "saliency_minhead", "local")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny.write(tmp_path / "set")
    return tmp_path / "set"


def test_stored_features_are_those_of_a_pass(root: Path, tmp_path: Path) -> None:
    entry = obtain(tmp_path / "store", wanted(root))
    reader = Reader(str(root), load_manifest(root), DataConfig(eval_size=tiny.SIDE))
    featurise = Featuriser(BACKBONE, Needs(), CPU, autocast=False)
    row = 0
    for batch in map(featurise, reader.passes("train", 4)):
        rows = np.arange(row, row + len(batch.ids))
        assert entry.ids(rows) == batch.ids
        found = entry.feature_map(rows, CPU)
        assert torch.equal(found.tokens, batch.features.tokens.half().float())
        assert found.saliency is found.local is None
        row += len(batch.ids)
    assert row == IMAGES


def test_reduced_attention_is_that_of_the_backbone(root: Path, tmp_path: Path) -> None:
    config = vit(tmp_path)
    backbone = build_backbone(config)
    asked = wanted(root, config=config, backbone=backbone, parts=EVERYTHING)
    store = FeatureStore(FeatureFolder(tmp_path / "store"))
    entry = store.obtain(asked, features_here(backbone, "cpu"))
    assert entry.parts == EVERYTHING
    reader = Reader(str(root), load_manifest(root), DataConfig(eval_size=tiny.SIDE))
    (images,) = reader.passes("train", IMAGES)
    rows = np.arange(IMAGES)
    normalised = backbone.normalise(images.pixels.float() / 255)
    kinds: tuple[tuple[Attention, Part], ...] = (
        ("cls", "saliency_cls"),
        ("minhead", "saliency_minhead"),
    )
    for kind, part in kinds:
        direct = backbone(normalised, Needs(attention=kind, local_attention=True))
        stored = store.open(asked.entry.key, ("tokens", part, "local")).feature_map(rows, CPU)
        for name in ("tokens", "saliency", "local"):
            torch.testing.assert_close(
                getattr(stored, name), getattr(direct, name), rtol=2e-3, atol=2e-4
            )
    assert not torch.equal(entry.read("saliency_cls", rows), entry.read("saliency_minhead", rows))


def test_crops_are_those_that_training_shows(root: Path, tmp_path: Path) -> None:
    crops = Crops("ten", ratios=(0.5, 0.7), filter="nearest")
    entry = obtain(tmp_path / "store", wanted(root, crops=crops))
    assert entry.manifest.rows == IMAGES * 20
    config = DataConfig(
        crops="ten", crop_ratios=(0.5, 0.7), crop_filter="nearest", flip=False, train_size=tiny.SIDE
    )
    reader = Reader(str(root), load_manifest(root), config, seed=3)
    featurise = Featuriser(BACKBONE, Needs(), CPU, autocast=False)
    shown: dict[str, list[bytes]] = {}
    for walk in range(20):
        for batch in map(featurise, reader.crops(walk, 7)):
            for name, tokens in zip(batch.ids, batch.features.tokens, strict=True):
                shown.setdefault(name, []).append(tokens.half().numpy().tobytes())
    whole = everything(entry).reshape(IMAGES, 20, -1)
    for image, rows in enumerate(whole):
        # Training shows each of them once in so many walks, in an order of its own.
        assert sorted(row.tobytes() for row in rows) == sorted(shown[f"train-{image:02d}"])


def test_views_are_fixed_draws_of_each_row(root: Path, tmp_path: Path) -> None:
    views = Views(draws=3, jitter=JitterConfig())
    crops = Crops("five")
    asked = wanted(root, crops=crops, views=views)
    whole = everything(obtain(tmp_path / "store", asked)).reshape(IMAGES, 5, 3, -1)
    plain = everything(obtain(tmp_path / "store", wanted(root, crops=crops))).reshape(IMAGES, 5, -1)
    assert len(np.unique(whole.reshape(IMAGES * 15, -1), axis=0)) == IMAGES * 15
    assert not (whole[:, :, 0] == plain).all(2).any()
    # A draw depends on image, crop and its own number, not on the rows beside it.
    block = read_piece(str(root), asked.pieces(range(2))[1], Showing(FRAME, crops, every=True))
    pixels = torch.from_numpy(block["image"][2:3]).float() / 255
    view = photometric_views(pixels, ["train-01/2"], views.jitter, "stored", 1)
    expected = BACKBONE(view).tokens.half().numpy().reshape(-1)
    assert np.array_equal(whole[1, 2, 1], expected)


def test_blocks_of_any_size_give_the_same_rows(root: Path) -> None:
    asked = wanted(root, crops=Crops("five"), views=Views(draws=2, jitter=JitterConfig()))
    block = read_piece(str(root), asked.pieces(range(1))[0], asked.entry.recipe.showing)
    assert block["crop"].tolist() == [0, 1, 2, 3, 4] * (len(block["id"]) // 5)
    extractor = Extractor(asked, "cpu", backbone=BACKBONE)
    whole = extractor(block)
    parts = [
        extractor({name: column[rows] for name, column in block.items()})
        for rows in (slice(0, 3), slice(3, None))
    ]
    for name in ("id", "tokens"):
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_a_backbone_without_attention_has_none_to_store(root: Path) -> None:
    with pytest.raises(UserError, match="textons has no attention: saliency_cls, local cannot be"):
        wanted(root, parts=("tokens", "saliency_cls", "local"))


def test_a_split_without_images_is_told(root: Path) -> None:
    empty = load_manifest(root)
    with pytest.raises(UserError, match="no split 'nowhere'"):
        want(str(root), empty, "nowhere", wanted(root).backbone, BACKBONE, frame=FRAME)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "cannot be written")]
)
def test_a_full_disk_keeps_what_is_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    asked, folder = wanted(root), FeatureFolder(tmp_path / "store")
    original, written = Path.replace, list[Path]()

    def full(path: Path, target: Path) -> Path:
        if target.suffix == ".arrow":
            if len(written) == 2:
                raise OSError(number, "injected")
            written.append(target)
        return original(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(
            UserError, match=rf"{words}.*2 of 5 shards.*features rm {asked.entry.key}"
        ):
            FeatureStore(folder).obtain(asked, HERE)
    path = folder.path(asked.entry.key)
    assert list(feature_files.list_shards(path, "tokens")) == [0, 1]
    assert list(path.glob("**/.*")) == []
    stamps = [file.stat().st_mtime_ns for file in written]
    # The store goes on where it stopped once there is room.
    told: list[tuple[int, int]] = []
    entry = FeatureStore(folder).obtain(asked, HERE, lambda *rows: told.append(rows))
    assert told == [(9, 14), (12, 14), (14, 14)]
    assert [file.stat().st_mtime_ns for file in written] == stamps
    assert np.array_equal(everything(entry), everything(obtain(tmp_path / "other", asked)))


def test_only_missing_shards_are_computed(root: Path, tmp_path: Path) -> None:
    asked, folder = wanted(root), FeatureFolder(tmp_path / "store")
    rows: list[int] = []
    write_missing(folder, asked, {1: ("tokens",), 4: ("tokens",)}, HERE, rows.append)
    assert rows == [3, 2]
    assert list(feature_files.list_shards(folder.path(asked.entry.key), "tokens")) == [1, 4]
    assert NUM_SHARDS == 5


def test_bfloat16_is_another_entry_of_nearly_the_same_values(root: Path, tmp_path: Path) -> None:
    config = vit(tmp_path)
    backbone = build_backbone(config)
    whole = []
    for arithmetic in ("float32", "bfloat16"):
        asked = wanted(root, config=config, backbone=backbone, arithmetic=arithmetic)
        store = FeatureStore(FeatureFolder(tmp_path / "store"))
        whole.append(everything(store.obtain(asked, features_here(backbone, "cpu"))))
    assert not np.array_equal(whole[0], whole[1])
    assert np.abs(whole[0].astype(np.float32) - whole[1]).mean() < 0.05
