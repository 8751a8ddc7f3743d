"""What the finalists' table of a report says beside the scores."""

from usseg_ray.report.content import Table
from usseg_ray.report.leaderboard import leaderboard
from usseg_ray.report.read import RunRecord, SweepRecord
from usseg_ray.tracking.store import SEED_TAG, TRIAL_TAG

PICKED = "settings picked by labels of val"
STAMP = "scenes val, centre-crop: centre square at short side 320, bilinear, one-to-one; textons"


def run(trial: str, miou: float, metrics: dict[str, float], seed: str = "") -> RunRecord:
    tags = {TRIAL_TAG: trial, "usseg.method": "acseg"} | ({SEED_TAG: seed} if seed else {})
    found = {"unsup_miou": miou, "test.unsup_miou": miou} | metrics
    return RunRecord(trial, trial, "FINISHED", 0, 1.0, {}, tags, found)


def sweep(name: str, picked: str, behind: dict[str, float]) -> SweepRecord:
    tags = {"usseg.folder": name, "usseg.protocol": STAMP} | (
        {"usseg.picked": picked} if picked else {}
    )
    parent = RunRecord(name, name, "FINISHED", 0, 1.0, {}, tags, {})
    ends = {f"test.behind{end}": value for end, value in behind.items()}
    trials = (run("trial_000", 40.0, {}), run("trial_001", 30.0, ends))
    return SweepRecord(parent, trials, tuple(run(t.trial, 30.0, {}, "0") for t in trials))


def finalists(*sweeps: SweepRecord) -> Table:
    table = leaderboard(sweeps).blocks[0]
    assert isinstance(table, Table)
    return table


def test_the_caption_says_what_picked_them() -> None:
    one = sweep("one", PICKED, {})
    assert finalists(one).caption.endswith(f"textons; {PICKED}")
    assert finalists(one, sweep("two", PICKED, {})).caption.endswith(f"textons; {PICKED}")
    other = sweep("two", "", {})
    assert finalists(one, other).caption.endswith(f"textons; one: {PICKED}")
    assert finalists(other).caption.endswith("textons")


def test_one_seed_is_too_few() -> None:
    for behind, said in (
        ({"": 2.0}, (None, "too few seeds")),
        ({"": 2.0, "_low": -1.0, "_high": 5.0}, ("-1.0 to 5.0", "no, noise")),
        ({"": 2.0, "_low": 1.0, "_high": 3.0}, ("1.0 to 3.0", "yes")),
    ):
        rows = {row.cells["name"]: row.cells for row in finalists(sweep("one", "", behind)).rows}
        cells = rows["trial_001"]
        assert (cells["interval"], cells["noise"]) == said
        assert cells["behind"] == 2.0
