"""The dashboard in a real browser: what it shows before anybody clicks."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ledgers import opened
from usseg_ray.tracking.store import COLUMNS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("folder"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
PROTOCOL = "synthetic val, 112 px centre crop, one-to-one matching, textons"
TEST = "40.10 ± 1.25 (3)"
NAMES = ("001 acseg K=27 42.25", "000 hp K=27 31.50")
FLOORS = {"position": 21.3, "colour": 27.9, "kmeans": 33.1, "linear": 58.2}


def shown(address: str, profile: Path) -> str:
    """Returns the page as a browser has drawn it, on the screen of a small laptop."""
    assert CHROMIUM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1366,768"]
    places = [f"--user-data-dir={profile}", "--virtual-time-budget=30000", "--dump-dom"]
    return subprocess.run(
        [CHROMIUM, *options, *places, address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def test_the_dashboard_opens_on_the_sweeps_own_trials(server: str, tmp_path: Path) -> None:
    with opened(server, "other") as ledger:
        ledger.open_trial("foreign", {"num_clusters": 5}, {"usseg.method": "picie"})
        ledger.close_trial("foreign", "FINISHED")
    with opened(server, "seen") as ledger:
        ledger.log_baselines(FLOORS)
        for trial, method, score in (("trial_000", "hp", 31.504), ("trial_001", "acseg", 42.254)):
            name = next(name for name in NAMES if method in name)
            tags = {"usseg.method": method, "usseg.protocol": PROTOCOL, "usseg.data": "scenes val"}
            ledger.open_trial(trial, {"num_clusters": 27}, tags)
            ledger.log(trial, {"unsup_miou": score, "loss": 0.5}, step=0)
            ledger.tag({"usseg.test": TEST, "mlflow.runName": name}, trial)
            ledger.open_final(trial, 3, {}, {"usseg.method": "of a seed"})
            ledger.close_trial(trial, "FINISHED")
    page = shown(ledger.dashboard()[1], tmp_path / "profile")
    columns = set(re.findall(r'role="columnheader"[^>]*?col-id="([^"]+)"', page)) or set(
        re.findall(r'col-id="([^"]+)"', page)
    )
    # What is beyond the screen's edge is not drawn.
    assert set(list(COLUMNS)[:3]) <= columns
    for text in (
        *NAMES,
        "scenes val",
        TEST,
        "position 21.3, colour 27.9, kmeans 33.1, linear 58.2",
    ):
        assert f">{text}<" in page, text
    best, other = (page.index(f">{name}<") for name in NAMES)
    assert best < other, "the best one is not the first"
    for foreign in ("seen", "picie", "of a seed"):
        assert f">{foreign}<" not in page
