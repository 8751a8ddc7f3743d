"""The checkout keeps its shape, and what README and docs promise exists."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.told import trial
from usseg_ray.engine.baselines import BASELINES, label
from usseg_ray.report.runs import COLUMNS
from usseg_ray.scoring.objective import MIOU, picked_by
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.answer import Contender, Findings, conclude
from usseg_ray.sweeps.tables import final_table, leaderboard

TOP_LEVEL = {
    *("usseg_ray", "search_spaces", "tests", "cluster.yaml", "pyproject.toml", "README.md"),
    *("LICENSE", "CHANGELOG.md", "Makefile", "docs", ".ci", ".github", ".gitignore"),
    ".pre-commit-config.yaml",
}
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("**/*.md"))]
NAMES = [page.relative_to(PROJECT).as_posix() for page in PAGES]

LINK = re.compile(r"""\]\(([^)\s]+)[^)]*\)|<(?:img|a)\b[^>]*\b(?:src|href)="([^"]+)\"""")
COMMAND = re.compile(r"python -m (usseg_ray\.\w+)([^`\n]*)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
TARGET = re.compile(r"`make ([a-z]+)`|^make ([a-z]+)", re.MULTILINE)


def text_of(page: Path) -> str:
    """Reads a page with the lines of a continued command joined."""
    return page.read_text("utf-8").replace("\\\n", " ")


def commands() -> Iterator[tuple[str, str, set[str]]]:
    """Yields page, module and options of every command in the pages that exist."""
    for page, name in zip(PAGES, NAMES, strict=True):
        for module, rest in COMMAND.findall(text_of(page) if page.exists() else ""):
            # What follows a comment sign or another command is not this command's.
            yield name, module, set(OPTION.findall(re.split(r"\s#|&&|;|\|", rest)[0]))


MODULES = sorted({module for _, module, _ in commands()})


@cache
def helps() -> dict[str, str]:
    """Asks every command for its help, all at the same time."""
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    asked = {
        module: subprocess.Popen(
            [sys.executable, "-m", module, "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=PROJECT,
            env=environment,
        )
        for module in MODULES
    }
    answers = {module: process.communicate(timeout=120)[0] for module, process in asked.items()}
    for module, process in asked.items():
        assert process.returncode == 0, f"{module} --help: {answers[module]}"
    return answers


def test_the_top_level_holds_only_what_belongs_there() -> None:
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True)
    there = {path.split("/")[0] for path in tracked.split("\0") if path}
    assert there
    assert there <= TOP_LEVEL


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name: str) -> None:
    page = PROJECT / name
    links = [first or second for first, second in LINK.findall(text_of(page))]
    relative = [link.split("#")[0] for link in links if not re.match(r"\w+:|#", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("module", MODULES)
def test_commands_in_the_docs_have_their_options(module: str) -> None:
    known = set(OPTION.findall(helps()[module].replace("│", " ").replace(",", " ")))
    assert "--help" in known
    unknown = {
        (name, option)
        for name, named, options in commands()
        for option in options - known
        if named == module
    }
    assert unknown == set()


def test_the_docs_show_every_command() -> None:
    shown = {module.rsplit(".", 1)[1] for module in MODULES}
    package = PROJECT / "usseg_ray"
    there = {
        path.parent.name if path.stem == "__main__" else path.stem
        for path in [*package.glob("*.py"), *package.glob("*/__main__.py")]
        if "make_app()" in path.read_text("utf-8") and path.stem != "cli"
    }
    assert shown == there


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_in_the_docs_exist(name: str) -> None:
    rules = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {first or second for first, second in TARGET.findall(text_of(PROJECT / name))}
    assert named <= rules


@pytest.mark.parametrize("name", ["README.md", "docs/cluster.md"])
def test_data_is_on_the_cluster_before_a_sweep_asks_for_it(name: str) -> None:
    text = (PROJECT / name).read_text("utf-8")
    before, _, after = text.partition("ray job submit --address")
    (data,) = re.findall(r"--data (\w+)", after.partition("```")[0])
    begun = before.rpartition("```")[2]
    assert f"ray rsync-up cluster.yaml {data}/ '~/{data}/'" in begun
    assert f"--source ~/{data} --out /mnt/usseg/data/{data}" in begun


def test_the_architecture_page_knows_every_room() -> None:
    table = re.findall(
        r"^\| `([\w.]+)` \|", text_of(PROJECT / "docs/architecture.md"), re.MULTILINE
    )
    package = PROJECT / "usseg_ray"
    rooms = {path.parent.relative_to(package) for path in package.rglob("__init__.py")}
    rooms |= {path.relative_to(package).with_suffix("") for path in package.glob("*.py")}
    there = {".".join(path.parts) for path in rooms} - {"", "__init__"}
    assert sorted(table) == sorted(there)


def test_one_version_is_told_everywhere() -> None:
    from usseg_ray import __version__

    newest = re.search(r"^## \[(\d[^\]]*)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def first_sweep() -> str:
    """Reads the tables with which README shows what the first command prints."""
    text = (PROJECT / "README.md").read_text("utf-8")
    return text.partition("```text\n")[2].partition("\n```")[0]


def in_columns(line: str) -> list[str]:
    """Takes a line of a table apart."""
    return re.split(r"\s{2,}", line.strip())


def test_the_first_table_has_the_columns_and_rows_of_a_sweep() -> None:
    block = first_sweep()
    ranked, _, finals = block.partition("\n\n")
    board = leaderboard([trial(0, 1.0)], ["method.gamma"], {}, split="val", title="")
    assert in_columns(ranked.splitlines()[0])[:5] == [c.title for c in board.columns][:5]
    known = [column.title for column in final_table([], {}, "test").columns]
    assert [c for c in known if c in in_columns(finals.splitlines()[2])] == in_columns(
        finals.splitlines()[2]
    )
    assert finals.startswith(final_table([], {}, "test", picked_by(MIOU, "val")).caption)
    for table in (ranked, finals):
        named = re.findall(r"^\s*(\w+ \((?:floor|features|context|supervised)\))", table, re.M)
        assert sorted(named) == sorted(map(label, BASELINES))


def test_the_first_table_ends_with_the_sentence_of_its_numbers() -> None:
    *lines, command = first_sweep().partition("\n\n")[2].splitlines()
    start = next(place for place, line in enumerate(lines) if " mIoU on test" in line)
    sentence = " ".join(lines[start:])
    found, floors = list[Contender](), dict[str, float]()
    for line in lines[3:start]:
        if line.startswith("trial_"):
            name, clusters, seeds, score, _, *behind = in_columns(line)
            mean, deviation = map(float, score.split(" ± "))
            assert seeds == "3"
            scores = mean - deviation, mean, mean + deviation
            ends = [float(end) for one in behind for end in re.findall(r"-?\d+\.\d+", one)]
            after = Difference(*ends) if ends else None
            found.append(Contender(name, "acseg", int(clusters), scores, after))
        elif ") " in line:
            name, score = in_columns(line)
            floors[next(one for one in BASELINES if label(one) == name)] = float(score)
    picked = picked_by(MIOU, "val")
    own = "python -m usseg_ray.tune --method acseg"
    told = [
        conclude(Findings(found, width / 10, floors, "test", picked, own))
        for width in range(1, 300)  # the first one's own interval is not in the table
    ]
    assert (sentence, command.strip()) in [(one.sentence, one.command) for one in told]


def test_the_comparison_of_two_sweeps_has_the_columns_and_rows_of_one() -> None:
    text = (PROJECT / "docs/report.md").read_text("utf-8")
    block = text.partition("report A B\n```\n\n```\n")[2].partition("\n```")[0]
    words = set(re.sub(r"[━╇┃│]", " ", block).split())
    titles = [column.title for column in COLUMNS if column.key != "backbone"]
    expected = {word for name in (*titles, *map(label, BASELINES)) for word in name.split()}
    assert expected - words == set()
