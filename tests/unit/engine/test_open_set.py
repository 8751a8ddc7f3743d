from pathlib import Path

from tests import tiny
from usseg_ray.data.reader import Reader
from usseg_ray.engine.open_set import OpenSet


def test_a_set_is_read_in_this_process_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    opened = OpenSet(str(tmp_path), tiny.write(tmp_path))
    assert opened.stored is None
    reader = Reader(opened.root, opened.manifest, tiny.config().data, stream=opened.stream)
    rows = [name for batch in reader.labelled("val", 4) for name in batch.images.ids]
    assert len(rows) == tiny.SPLITS["val"]
    assert opened == OpenSet(str(tmp_path), opened.manifest)
    assert opened.kept is not OpenSet(str(tmp_path), opened.manifest).kept
