from pathlib import Path

import pytest

from tests.outputs import about, mask_of, record, strips
from usseg_ray.core.errors import UserError
from usseg_ray.models.description import read_description
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import Record
from usseg_ray.outputs.manifest import Folder, Header, merged


def noted(name: str, form: str = "png") -> Record:
    mask = mask_of()
    return record(about(mask, name), strips(mask), form)


def test_a_header_says_in_what_it_differs(model: Path) -> None:
    description = read_description(model)
    header = Header.of(description, {})
    assert header.differs(Header.of(description, {})) == ""
    named = description.model_copy(update={"names": Names.default(3, ((1, 2, 3),) * 3)})
    other = description.model_copy(update={"weights_sha256": "0" * 64})
    assert header.differs(Header.of(other, {})) == "another model"
    assert header.differs(Header.of(named, {})) == "the same model with other names"
    tiled = Header.of(description, {"tile": 64, "overlap": 0.25})
    assert header.differs(tiled) == "other options (none; now --tile 64, --overlap 0.25)"
    summer = Header.of(description, {}, "/summer")
    assert summer.differs(Header.of(description, {}, "/winter")) == (
        "the same model for the images of /summer"
    )
    # Earlier versions did not say.
    assert header.differs(summer) == summer.differs(header) == ""


def test_what_is_noted_is_read_again_after_joining_too(tmp_path: Path, model: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    assert folder.header() is None
    header = Header.of(read_description(model), {})
    folder.begin(header, "names")
    assert folder.header() == header
    folder.note([noted("a.jpg"), noted("b.jpg")])
    folder.note([noted("a.jpg", "coco")])
    done = folder.done()
    assert set(done) == {"a.jpg", "b.jpg"}
    assert done["a.jpg"].files == {"png": "png", "coco": "coco"}
    folder.join(done.values())
    assert folder.done() == done
    assert len(list((tmp_path / "out" / ".parts" / "done").iterdir())) == 1


def test_of_a_file_that_changed_the_later_note_counts() -> None:
    old = noted("a.jpg")
    new = noted("a.jpg", "coco").model_copy(update={"stamp": (5, 9)})
    assert merged(old, new) == new == merged(new, old)


def test_clearing_removes_what_was_written_and_nothing_else(tmp_path: Path, model: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    folder.begin(Header.of(read_description(model), {}), "names")
    folder.write("masks/a.png", b"x")
    folder.write("own.txt", b"x")
    folder.note([noted("a.jpg").model_copy(update={"files": {"png": "masks/a.png"}})])
    folder.clear()
    assert set(folder.sizes()) == {"own.txt"}


def test_unfinished_files_are_swept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("masks/a.png", b"x")
    (tmp_path / "masks" / ".123.unfinished").write_bytes(b"x")
    folder.sweep()
    assert set(folder.sizes()) == {"masks/a.png"}


def test_a_damaged_header_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "predict.json").write_text("{}")
    with pytest.raises(UserError, match=r"predict.json is damaged.*--overwrite"):
        Folder(str(tmp_path)).header()
