import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.commands import apart, here
from tests.served import archived, publishing, serve
from tests.trees import plant, plant_mosaics
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.data.decode import decode_label
from usseg_ray.data.manifest import Manifest, load_manifest
from usseg_ray.data.shards import Row, read_rows, verify
from usseg_ray.prepare.sets import find_set
from usseg_ray.prepare.tally import QUARANTINE
from usseg_ray.prepare.write import Patterns, Preparation, prepare

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]

COUNTS = {"train": 10, "val": 3}
COMMAND = (sys.executable, "-m", "usseg_ray.prepare")


def draw(path: Path, seed: int, width: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (16, width, 3), np.uint8)).save(path)


def draw_label(path: Path, seed: int, top: int = 2, width: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed).choice([*range(top), 255], (16, width)).astype(np.uint8)
    numbers[0, 0] = top
    Image.fromarray(numbers).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Thirteen images in two splits, all labelled but the first of `train`."""
    root = tmp_path / "farm"
    for split, count in COUNTS.items():
        for i in range(count):
            draw(root / split / "images" / f"{i:02d}.jpg", i)
            if (split, i) != ("train", 0):
                draw_label(root / split / "labels" / f"{i:02d}.png", i)
    (root / "dataset.json").write_text(json.dumps({"classes": ["cow", "grass", "sky"]}))
    return root


def rows_of(prepared: Preparation, split: str) -> list[Row]:
    filesystem, root = resolve(prepared.out)
    tables = [
        read_rows(filesystem, f"{root}/{shard.path}", group)
        for shard in prepared.manifest.shards_of(split)
        for group in range(len(shard.row_groups))
    ]
    return [Row(**row) for table in tables for row in table.to_pylist()]


def quarantined(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / QUARANTINE).read_text().splitlines()]


def assert_nothing_is_prepared(out: Path) -> None:
    assert not (out / "manifest.json").exists()
    assert list(out.glob("shards/*")) == []


def test_every_file_is_stored_as_it_is_in_order(source: Path, tmp_path: Path) -> None:
    out = (tmp_path / "out").as_uri()
    prepared = prepare(source, out, rows_per_shard=4)
    for split, count in COUNTS.items():
        rows = rows_of(prepared, split)
        assert [row.id for row in rows] == [f"{i:02d}" for i in range(count)]
        for row in rows:
            assert row.image == (source / split / "images" / f"{row.id}.jpg").read_bytes()
            label = source / split / "labels" / f"{row.id}.png"
            assert row.label == (label.read_bytes() if label.exists() else None)
            assert (row.height, row.width) == (16, 24)
    verify(prepared.manifest, out)
    assert quarantined(tmp_path / "out") == []


def test_manifest_says_what_there_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    monkeypatch.chdir(tmp_path)
    prepared = prepare(source, "out", rows_per_shard=4, on_progress=lambda *now: seen.append(now))
    manifest = prepared.manifest
    assert load_manifest(tmp_path / "out") == manifest
    assert (manifest.name, manifest.classes) == ("farm", ("cow", "grass", "sky"))
    assert manifest.ignore_index == 255
    assert [part.rows for part in manifest.shards] == [4, 4, 2, 3]
    totals = {name: (info.rows, info.labelled) for name, info in manifest.splits.items()}
    assert totals == {"train": (10, 9), "val": (3, 3)}
    assert len(seen) == 4
    assert seen[-1] == (13, 0, 13)


def test_twice_does_the_work_once(source: Path, tmp_path: Path) -> None:
    first = prepare(source, tmp_path / "out", rows_per_shard=4)
    again = prepare(source, tmp_path / "out", rows_per_shard=4)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.manifest == first.manifest


def test_anywhere_and_anew_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first = prepare(source, tmp_path / "one", rows_per_shard=4)
    other = prepare(source, tmp_path / "two", rows_per_shard=4)
    anew = prepare(source, tmp_path / "one", rows_per_shard=4, overwrite=True)
    assert anew.fresh
    assert first.manifest == other.manifest == anew.manifest
    verify(anew.manifest, tmp_path / "one")


def test_another_set_is_replaced_only_if_asked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = prepare(source, out)
    draw(source / "val" / "images" / "new.png", 99)
    with pytest.raises(UserError, match=r"holds another set .* --overwrite"):
        prepare(source, out)
    assert load_manifest(out) == before.manifest
    after = prepare(source, out, overwrite=True).manifest
    assert after.splits["val"].rows == 4
    names = {Path(shard.path).name for shard in after.shards}
    assert {path.name for path in (out / "shards").iterdir()} == names


def test_a_broken_manifest_is_replaced_only_if_asked(source: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: not a JSON file.*--overwrite"):
        prepare(source, tmp_path)
    verify(prepare(source, tmp_path, overwrite=True).manifest, tmp_path)


def test_out_has_a_default(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "library"))
    prepared = prepare(source, name="cows")
    assert prepared.out == str(tmp_path / "library" / "cows")
    assert prepared.manifest.name == "cows"


def test_classes_are_counted_where_none_are_named(source: Path, tmp_path: Path) -> None:
    (source / "dataset.json").unlink()
    draw_label(source / "val" / "labels" / "01.png", 1, top=4)
    manifest = prepare(source, tmp_path / "out").manifest
    assert manifest.classes == tuple(f"class_{i}" for i in range(5))


def test_masks_of_0_and_255_are_refused_until_it_is_said_what_they_are(tmp_path: Path) -> None:
    source, out = tmp_path / "masks", tmp_path / "out"
    for i in range(3):
        draw(source / "images" / f"{i}.jpg", i)
        mask = np.random.default_rng(i).integers(0, 2, (16, 24)).astype(np.uint8) * 255
        (source / "labels").mkdir(exist_ok=True)
        Image.fromarray(mask).save(source / "labels" / f"{i}.png")
    with pytest.raises(UserError, match=r"values 0 and 255 alone, .*\n.*--classes"):
        prepare(source, out)
    assert_nothing_is_prepared(out)
    prepared = prepare(source, out, patterns=Patterns(classes="0=background,255=object"))
    assert prepared.manifest.classes == ("background", "object")
    labels = [decode_label(row.label) for row in rows_of(prepared, "train") if row.label]
    assert {int(value) for label in labels for value in np.unique(label)} == {0, 1}


def test_masks_of_0_and_255_are_refused_before_a_shard_however_many(tmp_path: Path) -> None:
    source, out = tmp_path / "masks", tmp_path / "out"
    for i in range(40):
        draw(source / "images" / f"{i:02}.png", seed=i)
        (source / "labels").mkdir(exist_ok=True)
        mask = np.full((16, 24), 255 * (i >= 33), np.uint8)  # most are empty
        Image.fromarray(mask).save(source / "labels" / f"{i:02}.png")
    with pytest.raises(UserError, match="values 0 and 255 alone"):
        prepare(source, out)
    assert not out.exists()


def test_a_class_in_one_label_of_many_is_enough(tmp_path: Path) -> None:
    source = tmp_path / "rare"
    for i in range(40):
        draw(source / "images" / f"{i:02}.png", seed=i)
        (source / "labels").mkdir(exist_ok=True)
        mask = np.full((16, 24), 0, np.uint8)
        mask[0], mask[1] = 255, i == 39
        Image.fromarray(mask).save(source / "labels" / f"{i:02}.png")
    assert prepare(source, tmp_path / "out").manifest.classes == ("class_0", "class_1")


def test_a_plain_folder_has_no_classes(tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / "photos" / f"{i}.png", i)
    manifest = prepare(tmp_path / "photos", tmp_path / "out").manifest
    assert manifest.classes == ()
    assert (manifest.splits["train"].rows, manifest.splits["train"].labelled) == (3, 0)


def spoil(source: Path) -> None:
    """Breaks one image and two labels of `train`."""
    image = source / "train" / "images" / "05.jpg"
    image.write_bytes(image.read_bytes()[:-60])
    draw_label(source / "train" / "labels" / "02.png", 2, top=3)
    draw_label(source / "train" / "labels" / "07.png", 7, width=20)


def test_bad_files_are_left_out_counted_and_named(source: Path, tmp_path: Path) -> None:
    spoil(source)
    out = tmp_path / "out"
    prepared = prepare(source, out, max_bad_share=0.3, rows_per_shard=4)
    info = prepared.manifest.splits["train"]
    assert (info.rows, info.labelled, info.bad_images, info.bad_labels) == (9, 6, 1, 2)
    labelled = {row.id: row.label is not None for row in rows_of(prepared, "train")}
    assert "05" not in labelled
    assert [key for key, has in labelled.items() if not has] == ["00", "02", "07"]
    found = {(entry["id"], entry["kind"]): entry["reason"] for entry in quarantined(out)}
    assert list(found) == [("02", "label"), ("05", "image"), ("07", "label")]
    assert "value 3 is neither a class" in found["02", "label"]
    assert "truncated" in found["05", "image"]
    assert "the label is 20x16, its image 24x16" in found["07", "label"]


def test_too_many_bad_files_stop_the_work(source: Path, tmp_path: Path) -> None:
    spoil(source)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"of 13 images or labels are bad, more than --max-bad-"):
        prepare(source, out)
    assert_nothing_is_prepared(out)
    assert quarantined(out)


def test_failing_to_overwrite_leaves_the_old_set_whole(source: Path, tmp_path: Path) -> None:
    before = prepare(source, tmp_path / "out", rows_per_shard=4).manifest
    spoil(source)
    with pytest.raises(UserError, match="are bad"):
        prepare(source, tmp_path / "out", rows_per_shard=4, overwrite=True)
    assert load_manifest(tmp_path / "out") == before
    verify(before, tmp_path / "out")
    assert len(list((tmp_path / "out" / "shards").iterdir())) == len(before.shards)


def test_a_split_without_a_good_image(source: Path, tmp_path: Path) -> None:
    for path in (source / "val" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"No image of split 'val' can be used; .*not a JPEG"):
        prepare(source, tmp_path / "out", max_bad_share=1)
    assert_nothing_is_prepared(tmp_path / "out")


def test_a_link_to_nowhere_is_a_bad_image(source: Path, tmp_path: Path) -> None:
    (source / "train" / "images" / "99.jpg").symlink_to(tmp_path / "absent.jpg")
    info = prepare(source, tmp_path / "out", max_bad_share=0.1).manifest.splits["train"]
    assert (info.rows, info.bad_images) == (10, 1)
    (problem,) = quarantined(tmp_path / "out")
    assert "No such file" in problem["reason"]


def test_a_place_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "shards").write_text("")
    for out in (tmp_path / "file", tmp_path / "half"):
        with pytest.raises(UserError, match=rf"--out {out}: cannot be written"):
            prepare(source, out)


def test_the_command_tells_what_it_made(source: Path, tmp_path: Path) -> None:
    asked = ("prepare", "--source", source, "--out", tmp_path / "out")
    first, again = (command(*asked) for command in (apart, here))
    for result in (first, again):
        assert (result.returncode, result.stderr) == (0, "")
        assert [word for word in ("train", "val") if word in result.stdout] == ["train", "val"]
    assert "Prepared: " in first.stdout
    assert "Already prepared" in again.stdout


def test_the_command_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    result = apart("prepare", "--source", tmp_path / "absent", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "absent does not exist" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_passed_over_and_keeps_names_where_they_belong(
    source: Path, tmp_path: Path
) -> None:
    (source / "train" / "images" / "._05.jpg").write_bytes(b"x")
    (source / "train" / "images" / "x.psd").write_bytes(b"x")
    result = here("prepare", "--source", source, "--out", tmp_path / "out")
    assert "2 files passed over: .psd 1, hidden 1." in result.stdout
    assert "train: 1 of 10 images have no label." in result.stdout
    (source / "dataset.json").write_text(json.dumps({"name": "../../evil"}))
    for arguments in ((), ("--name", "../evil")):
        result = here("prepare", "--source", source, *arguments)
        assert result.returncode == 2
        (source / "dataset.json").unlink(missing_ok=True)
        assert "cannot be part of a path" in result.stderr


def test_the_command_names_bad_files_and_shows_no_traceback(source: Path, tmp_path: Path) -> None:
    spoil(source)
    result = apart("prepare", "--source", source, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "images or labels are bad" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_ctrl_c_leaves_no_half_set(tmp_path: Path) -> None:
    for i in range(400):
        draw(tmp_path / "photos" / f"{i:03d}.png", i)
    out = tmp_path / "out"
    arguments = ("--source", tmp_path / "photos", "--out", out, "--rows-per-shard", "1")
    command = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("shards/*.parquet"))) < 3:
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGINT)
    assert command.wait(timeout=60) not in (0, 2)
    assert_nothing_is_prepared(out)
    manifest: Manifest = prepare(tmp_path / "photos", out, rows_per_shard=100).manifest
    assert manifest.splits["train"].rows == 400
    verify(manifest, out)


def test_a_published_set_is_prepared_by_its_name(tmp_path: Path) -> None:
    source, out = plant(tmp_path / "source", "potsdam3"), tmp_path / "out"
    result = here("prepare", "--dataset", "potsdam3", "--source", source, "--out", out)
    assert (result.returncode, result.stderr) == (0, "")
    assert "val: held out of labelled_train.txt" in result.stdout
    assert "test has 2 images, officially 855: its scores do not compare" in result.stdout
    manifest = load_manifest(str(out))
    assert (manifest.name, len(manifest.classes), manifest.things) == ("potsdam3", 3, ())
    assert {split: info.labelled for split, info in manifest.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
    }
    prepared = Preparation(manifest, str(out), fresh=True, images_per_second=None)
    first = next(iter(rows_of(prepared, "test")))
    assert first.label is not None
    assert set(np.unique(decode_label(first.label))) == {0, 1, 2, 255}


def test_mosaics_become_tiles(tmp_path: Path) -> None:
    source = plant_mosaics(tmp_path / "source")
    prepared = prepare(source, tmp_path / "out", dataset="potsdam3", rows_per_shard=3)
    assert {split: info.labelled for split, info in prepared.manifest.splits.items()} == {
        "train": 4,
        "val": 3,
        "test": 1,
    }
    assert {row.height for row in rows_of(prepared, "train")} == {200}
    assert not prepare(source, tmp_path / "out", dataset="potsdam3", rows_per_shard=3).fresh


def test_a_published_set_is_downloaded_and_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made, source = plant(tmp_path / "made", "voc2012"), tmp_path / "source"
    official = find_set("voc2012")
    with publishing() as publisher:
        archive = serve(publisher, official.archives[0], archived(made, "VOCdevkit"))
        replace(official, archives=(archive,)).download(source)
    prepared = prepare(source, tmp_path / "out", dataset="voc2012")
    same = prepare(made, tmp_path / "same", dataset="voc2012")
    assert prepared.manifest.shards == same.manifest.shards
    assert [row.id for row in rows_of(prepared, "test")] == ["2007_000003", "2007_000004"]


def test_a_published_set_in_another_layout_ends_with_code_2(tmp_path: Path) -> None:
    places = ("--source", tmp_path, "--out", tmp_path / "out")
    result = here("prepare", "--dataset", "voc2012", *places)
    assert result.returncode == 2
    assert "voc2012 needs" in result.stderr
    assert "Get it from" in result.stderr
    unknown = here("prepare", "--dataset", "voc", *places)
    assert unknown.returncode == 2
    assert "Known: cocostuff27" in unknown.stderr
