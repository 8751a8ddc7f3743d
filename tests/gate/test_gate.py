"""What `make gate` keeps is what the document shows, and its parts can be run."""

from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.fuzz.__main__ import names
from tests.gate.__main__ import BEGIN, DOCUMENT, END, NOT_RUN, load, run, table
from tests.gate.audit import told
from tests.gate.guards import GUARDS, Guard
from tests.gate.parts import NOTHING_RAN, PARTS, Part, figures


def test_the_document_shows_what_is_kept() -> None:
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    assert rest.partition(END)[0].strip() == table(load())


def test_a_part_keeps_its_last_figures() -> None:
    part = Part("unit", "", "", lacks=str)
    output = "= 1 failed in 3 s =\n\x1b[32m=== 12 passed, 1 skipped in 3.10s ===\x1b[0m\n"
    assert figures(part, output).endswith("12 passed, 1 skipped in 3.10s")


def test_an_audit_without_advisories_is_none() -> None:
    skipped = {"name": "torch", "skip_reason": "not found"}
    sound, holed = ({"name": "numpy", "vulns": holes} for holes in ([], [{"id": "CVE-1"}]))
    assert told([skipped, sound]) == ("1 of 2 packages audited, 0 known holes", 0)
    assert told([holed]) == ("1 of 1 packages audited, 1 known holes: numpy CVE-1", 0)
    sentence, code = told([skipped])
    assert sentence.startswith("0 of 1 packages audited")
    part = Part("test", "", f"(echo '{sentence}'; exit {code})", "^(0 of.*)$")
    assert code == NOTHING_RAN
    assert run(part)[:2] == (NOT_RUN, sentence)


def test_names_of_parts_are_apart() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_what_a_guard_takes_away_stands_there_once(guard: Guard) -> None:
    assert Path(PROJECT, guard.file).read_text().count(guard.line) == 1
    assert Path(PROJECT, guard.test).exists()


def test_every_fuzz_test_is_known() -> None:
    found = names()
    assert {"image_bytes", "trials", "archives_of_sets"} <= set(found)
    places = {Path(PROJECT, *module.split(".")).with_suffix(".py") for module in found.values()}
    assert places == set(Path(PROJECT, "tests", "fuzz").glob("test_*.py"))
