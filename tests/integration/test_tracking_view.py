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
FLOORS = {"position": 21.3, "colour": 27.9, "kmeans": 33.1, "linear": 58.2}


def shown(address: str, profile: Path) -> str:
    """Returns the page as a browser has drawn it, on a window as wide as most screens."""
    assert CHROMIUM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1920,640"]
    places = [f"--user-data-dir={profile}", "--virtual-time-budget=30000", "--dump-dom"]
    return subprocess.run(
        [CHROMIUM, *options, *places, address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def test_the_dashboard_opens_on_the_trials_with_their_floors(server: str, tmp_path: Path) -> None:
    with opened(server, "seen") as ledger:
        ledger.log_baselines(FLOORS)
        for trial, method, score in (("trial_000", "hp", 31.5), ("trial_001", "acseg", 42.25)):
            tags = {"usseg.method": method, "usseg.protocol": PROTOCOL}
            ledger.open_trial(trial, {"num_clusters": 27}, tags)
            ledger.log(trial, {"unsup_miou": score, "loss": 0.5}, step=0)
            ledger.close_trial(trial, "FINISHED")
    page = shown(ledger.dashboard()[1], tmp_path / "profile")
    columns = set(re.findall(r'role="columnheader"[^>]*?col-id="([^"]+)"', page)) or set(
        re.findall(r'col-id="([^"]+)"', page)
    )
    assert set(list(COLUMNS)[:6]) <= columns
    for text in (
        "unsup_miou",
        "baseline.position",
        "num_clusters",
        "27",
        "acseg",
        PROTOCOL,
        "21.3",
    ):
        assert f">{text}<" in page, text
    assert page.index(">42.25<") < page.index(">31.5<"), "the best one is not the first"
    assert ">seen<" not in page
