from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.lists import names_in


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa1\r\nb 2\r\n".replace(b"b 2", b"b2"),
        b"a1  1\nb2 -1\n\n",
        b"/JPEGImages/a1.jpg /SegmentationClass/a1.png\n/JPEGImages/b2.jpg /x/b2_mask.png\n",
        b"a1\na1\nb2",
    ],
)
def test_lists_as_people_write_them(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    assert names_in(path) == ["a1", "b2"]


@pytest.mark.parametrize("line", ["a b c", "a/1.jpg b/2.png", "a: b"])
def test_a_line_of_something_else_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(f"good\n{line}\n")
    with pytest.raises(UserError, match=r"train\.txt, line 2: one image name was expected"):
        names_in(path)
