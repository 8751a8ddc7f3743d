"""`look`: a model and a folder of images become a page."""

from pathlib import Path

from PIL import Image

from tests import tiny
from tests.integration.commands import here
from tests.unit.models.conftest import kept


def test_a_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    model = kept(tmp_path / "runs" / "dunes", "kmeans")
    photos = tmp_path / "my photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(tiny.picture(number)[0]).save(photos / f"{number}.png")
    Image.new("RGB", (30, 20), "red").save(laid := model.parent / "maps.png")
    (model.parent / "k").mkdir()
    laid.rename(model.parent / "k" / "kmeans-maps.png")
    asked = ("--model", "dunes", "--images", str(photos), "--device", "cpu")
    done = here("look", *asked, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 of 3 images seen: gallery.html\n"
    page = (tmp_path / "gallery.html").read_text("utf-8")
    assert "Under every K that was tried" in page
    assert 'id="cluster-2"' in page

    missing = here("look", "--model", "dunes", "--images", "nowhere", folder=tmp_path)
    assert missing.returncode == 2
    assert "--images nowhere: no such folder" in missing.stderr
