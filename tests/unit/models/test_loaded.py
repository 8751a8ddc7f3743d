"""What notebooks see: models that take any kind of image, and results that show themselves."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.encoded import encode, noise
from tests.rasters import deep_png
from usseg_ray.core.errors import UserError
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.models.loaded import LoadedModel, Result, Results
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmentation, Segmenter

IMAGE = tiny.picture(5)[0]


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    return LoadedModel(Segmenter.open(model, torch.device("cpu")))


def test_any_kind_of_image_is_taken(loaded: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(tiny.png(IMAGE))
    expected = loaded.predict(IMAGE)
    assert np.array_equal(expected.scores.argmax(0), expected.mask)
    for given in (path, str(path), Image.fromarray(IMAGE)):
        found = loaded.predict(given)
        assert isinstance(found, Result)
        assert np.array_equal(found.mask, expected.mask)
    assert loaded.predict(IMAGE[..., 0]).mask.shape == (32, 32)
    assert sum(expected.shares.values()) == pytest.approx(1)
    assert set(expected.shares) <= {"cluster 0", "cluster 1", "cluster 2"}


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("form", "exif"),
    [
        ("PNG", EXIF),
        ("TIFF", EXIF),
        ("JPEG", EXIF),
        ("WEBP", EXIF),
        ("PNG", b"Exif\0\0II*\0"),
        ("JPEG", b"Exif\0\0 not a header"),
    ],
)
def test_a_picture_of_pillows_is_turned_as_its_file_is(
    loaded: LoadedModel, tmp_path: Path, form: str, exif: bytes
) -> None:
    path = tmp_path / "image"
    Image.fromarray(np.ascontiguousarray(IMAGE[:24])).save(path, form, exif=exif)
    of_file = loaded.predict(path)
    assert isinstance(of_file, Result)
    assert of_file.image.shape == ((32, 24, 3) if exif == EXIF else (24, 32, 3))
    with Image.open(path) as picture:
        assert np.array_equal(loaded.predict(picture).image, of_file.image)


def test_a_picture_that_ends_early_is_one_line(loaded: LoadedModel, tmp_path: Path) -> None:
    whole = encode(noise(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with (
        Image.open(tmp_path / "a.jpg") as picture,
        pytest.raises(UserError, match="A picture that cannot be read"),
    ):
        loaded.predict(picture)


def test_numbers_are_scaled_as_the_training_images_were(model: Path, tmp_path: Path) -> None:
    sight = Sight(scaling=Scaling(low=(0, 0, 0), high=(2550, 2550, 2550)))
    segmenter = Segmenter.open(model, torch.device("cpu"))
    learnt = segmenter.description.preprocessing.model_copy(update={"sight": sight})
    segmenter.description = segmenter.description.model_copy(update={"preprocessing": learnt})
    loaded, deep = LoadedModel(segmenter), IMAGE.astype(np.uint16) * 10
    expected = loaded.predict(IMAGE).mask
    assert np.array_equal(loaded.predict(deep).mask, expected)
    assert np.array_equal(loaded.predict(deep.astype(np.float32)).mask, expected)
    (tmp_path / "deep.png").write_bytes(deep_png(deep))
    found = loaded.predict(tmp_path / "deep.png")
    assert isinstance(found, Result)
    assert np.array_equal(found.mask, expected)
    grey = loaded.predict(deep[..., 0]).mask
    assert np.array_equal(loaded.predict(Image.fromarray(deep[..., 0])).mask, grey)


def test_numbers_mean_nothing_to_a_model_of_bytes(loaded: LoadedModel) -> None:
    with pytest.raises(UserError, match="uint16"):
        loaded.predict(Image.fromarray(IMAGE[..., 0].astype(np.uint16)))


def test_a_folder_is_walked_and_its_tree_kept(loaded: LoadedModel, tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "outside.png"
    (folder / "a b").mkdir(parents=True)
    for path in (folder / "a b" / "été.png", folder / "one.png", outside):
        path.write_bytes(tiny.png(IMAGE))
    (folder / "text.jpg").write_text("no image")
    (folder / "link.png").symlink_to(outside)
    results = loaded.predict(folder)
    assert isinstance(results, Results)
    written = results.save(tmp_path / "masks")
    names = [path.relative_to(tmp_path / "masks") for path in written]
    assert sorted(names) == [Path("a b/été.png.png"), Path("one.png.png")]
    assert list(results.broken) == [Path("text.jpg")]
    with Image.open(written[0]) as mask:
        assert np.array_equal(np.asarray(mask), loaded.predict(IMAGE).mask)
    assert "one.png" in results._repr_html_()


def test_a_notebook_shows_results_and_models(loaded: LoadedModel) -> None:
    result = loaded.predict(IMAGE)
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.size == (32, 32)
    assert "data:image/png;base64," in result._repr_html_()
    assert "cluster 0" in loaded._repr_html_()
    assert "kmeans, K = 3, on textons, learnt from tiny" in repr(loaded)


def test_names_are_text_to_a_notebook_and_ignored_pixels_stay_as_they_are(
    loaded: LoadedModel,
) -> None:
    tree = Names.default(3).tree()
    tree[0]["name"], tree[1]["ignore"] = "<b>", True
    names = Names.of_tree(tree, "a test")
    mask = np.zeros((32, 32), np.int64)
    mask[:16] = names.ignored
    found = Segmentation(mask, np.ones((32, 32), np.float32), None, names)
    result = Result(IMAGE, found, loaded.segmenter)
    assert "&lt;b&gt; 50 %" in result._repr_html_()
    assert result.shares == {"ignored": 0.5, "<b>": 0.5}
    assert np.array_equal(np.asarray(result.picture())[:16], IMAGE[:16])


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(loaded: LoadedModel, wrong: np.ndarray) -> None:
    with pytest.raises(UserError, match="An image is an array"):
        loaded.predict(wrong)


def test_files_that_are_no_images_are_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        loaded.predict(tmp_path / "lost.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="no image that can be read"):
        loaded.predict(tmp_path / "text.png")
