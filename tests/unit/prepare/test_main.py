"""`prepare`: what is refused before anything is read or fetched is a line."""

from pathlib import Path

from tests.integration.commands import here
from usseg_ray.data.shards import ROWS_PER_SHARD
from usseg_ray.prepare.__main__ import IMAGES_IN_A_SHARD, PUBLISHED, _announcement, app
from usseg_ray.prepare.sets import PUBLISHED_SETS, find_set
from usseg_ray.prepare.sets.download import Archive


def test_what_is_wrong_is_a_line(tmp_path: Path) -> None:
    assert app.registered_commands
    nothing = here("prepare", "--source", tmp_path / "s", "--download")
    assert (nothing.returncode, "--download needs --dataset: one of" in nothing.stderr) == (2, True)
    unknown = here("prepare", "--source", tmp_path / "s", "--dataset", "cityscape", "--download")
    assert (unknown.returncode, "did you mean 'cityscapes" in unknown.stderr) == (2, True)
    lost = here("prepare", "--source", tmp_path / "lost", "--out", tmp_path / "o")
    assert lost.returncode == 2
    assert str(tmp_path / "lost") in lost.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_help_says_what_is_there() -> None:
    assert ", ".join(PUBLISHED_SETS) == PUBLISHED
    assert ROWS_PER_SHARD == IMAGES_IN_A_SHARD


def test_a_download_is_announced_with_its_size_its_hosts_and_its_terms() -> None:
    published = find_set("voc2012")
    archives = [
        Archive("https://one.example/a.tar", "a.tar", size=1_500_000_000),
        Archive("https://two.example/b.tar", "b.tar"),
    ]
    assert _announcement(published, archives, "voc") == (
        "Downloading voc2012 to voc: 2 files, 1.5 GB and 1 of unstated size, from one.example, "
        f"two.example.\nHome and terms: {published.home}"
    )
