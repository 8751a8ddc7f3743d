"""A small MLflow store with two sweeps, written by the ledger, and a report's page taken apart."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from mlflow.entities import Run

from usseg_ray.pictures.trial_page import draw
from usseg_ray.scoring.arrays import write_counts, write_evaluation
from usseg_ray.scoring.evaluation import Evaluation, Examples, GroundTruth, RefinementResult
from usseg_ray.scoring.metrics import MatchedCounts, score
from usseg_ray.scoring.patches import Patches
from usseg_ray.scoring.protocols import PLAIN
from usseg_ray.tracking.ledger import Ledger

HOSTILE = "<script>alert(1)</script>\"'&|<img src=x onerror=alert(2)>"
CLASSES = ("sky", "road", "<b>\"&'")
TRUTH = GroundTruth(CLASSES, 255)
TRIALS = (
    ("picie", 3, 1.0, 40.0),
    ("stego", 3, 0.5, 42.5),
    ("picie", 5, 2.0, 31.0),
    ("stego", 5, 0.1, 44.25),
    ("picie", 5, 90.0, 35.5),
)
STAMP = "cocostuff27 val, picie-320: centre square at short side 320, bilinear, one-to-one; resnet"
TEST_STAMP = STAMP.replace(" val,", " test,")
OTHER_STAMP = (
    "camvid val, centre-crop: centre square at short side 96, bilinear, one-to-one; textons"
)
MIOU = "unsupervised mIoU, %"
TRIALS_TABLE = f"Trials, ranked on the selection split: {STAMP}"
FINALS_TABLE = f"Finalists, scored on the test split: {TEST_STAMP}"
SHARED = {
    "seed": 0,
    "data.selection_split": "val",
    "data.test_split": "test",
    "resources.gpus_per_worker": 1.0,
    "resources.num_workers": 2,
}


def write_store(uri: str, folder: Path) -> None:
    """Writes a finished sweep with finalists, then one under another protocol that was killed."""
    tags = {
        "usseg.protocol": STAMP,
        "usseg.folder": "first",
        "usseg.data_digest": "abc123",
        "usseg.command": "python -m usseg_ray.tune --method picie,stego --num-samples 3",
        "usseg.gpu_hour_price": "2.5",
    }
    with Ledger.open(
        uri, "usseg_ray", "first-1a2b3c", params=SHARED, tags=tags, folder=folder / "first"
    ) as ledger:
        for index in range(len(TRIALS)):
            _trial(ledger, index)
        ledger.log_baselines({"position": 7.5, "colour": 8.25, "kmeans": 39.0, "linear": 77.0})
        for trial, base in (("trial_003", 43.0), ("trial_000", 41.0)):
            _finals(ledger, trial, base, folder)
        ledger.log("trial_000", {f"test.behind{end}": v for end, v in _BEHIND.items()}, 0)
        ledger.log(None, {"test.baseline.position": 7.0, "test.baseline.colour": 8.0}, 0)
    hostile = {"usseg.protocol": OTHER_STAMP, "usseg.folder": HOSTILE, "usseg.command": HOSTILE}
    params = {"note": HOSTILE}
    with Ledger.open(
        uri, "usseg_ray", "other-9f", params=params, tags=hostile, folder=folder / "other"
    ) as ledger:
        ledger.open_trial("trial_000", {"num_clusters": 4}, {"usseg.method": HOSTILE})
        ledger.log("trial_000", {"unsup_miou": 21.0, "collapsed": 1.0}, 1)
        ledger.close_trial("trial_000", "FAILED", HOSTILE)
        ledger.open_trial("trial_001", {"num_clusters": 4}, {"usseg.method": "hp"})
        ledger.log("trial_001", {"unsup_miou": 20.0}, 1)
        ledger.close_trial("trial_001", "FINISHED")


_BEHIND = {"": 2.0, "_low": -0.5, "_high": 4.5}


def _settings(index: int, seed: int = 0) -> dict[str, object]:
    _, clusters, gamma, _ = TRIALS[index]
    own = {"seed": seed, "num_clusters": clusters, "method.gamma": gamma}
    return SHARED | own | {"clusters_per_class": clusters / 3}


def _trial(ledger: Ledger, index: int) -> None:
    method, _, _, miou = TRIALS[index]
    name = f"trial_{index:03d}"
    ledger.open_trial(name, _settings(index), {"usseg.method": method, "usseg.protocol": STAMP})
    for epoch in (1, 2, 3):
        metrics = {
            "loss": 2.0 / epoch + index,
            "unsup_miou": miou - 3 + epoch,
            "unsup_acc": miou + 20.125 + epoch,
            "boundary_f": miou / 2,
            "label_free.stability": 0.5 + 0.1 * ((index * 2) % 5) + 0.01 * epoch,
            "label_free.entropy": 0.75,
            "images_per_second": 100.0 + index + epoch,
            "eval_seconds": 1.5 * epoch,
        }
        ledger.log(name, metrics, epoch)
    ledger.close_trial(name, "FINISHED")


def _finals(ledger: Ledger, trial: str, base: float, folder: Path) -> None:
    index = int(trial[-3:])
    tags = {"usseg.method": TRIALS[index][0], "usseg.test_protocol": TEST_STAMP}
    for seed in (0, 1, 2):
        name = ledger.open_final(trial, seed, _settings(index, seed), tags)
        if seed:
            ledger.log(name, {"unsup_miou": base + seed, "epoch": 3.0}, 3)
        found = {"unsup_miou": base + seed**2, "unsup_acc": base + 20, "linear_miou": 70.0 - seed}
        ledger.log(name, {f"test.{key}": value for key, value in found.items()}, 0)
        _evaluated(folder / name, index + seed)
        ledger.attach(name, folder / name)
        ledger.close_trial(name, "FINISHED")


def _evaluated(folder: Path, salt: int) -> None:
    """Leaves in a folder what a scored trial does; its images are the same for every trial."""
    random, images = np.random.default_rng(salt), np.random.default_rng(0)
    counts = random.integers(0, 50, (2, 3)) + 20 * np.eye(3, dtype=np.int64)[:2]
    confusion = np.vstack([counts, random.integers(0, 9, (2, 3))]).astype(np.int64)
    examples = Examples()
    for number in range(3):
        why = "best: " if number == 1 else ""
        examples.captions.append(f"{why}image {number}, mIoU {30 + salt}.5")
        examples.pixels.append(images.integers(0, 256, (24, 32, 3), np.uint8))
        examples.labels.append(images.choice([0, 1, 2, 255], (24, 32)))
        examples.clusters.append(random.integers(0, 4, (24, 32)))
    patches = Patches(np.zeros((4, 3, 32, 32, 3), np.uint8), np.full((4, 3), -np.inf, np.float32))
    image_counts = MatchedCounts(*(np.ones((2, 3), np.int64) for _ in range(3)))
    results = {PLAIN: RefinementResult(score(confusion), 50.0)}
    evaluation = Evaluation(results, 2, np.arange(2), image_counts, patches, examples)
    write_evaluation(evaluation, folder)
    write_counts(evaluation, folder)
    draw(folder, TRUTH, None, "a caption")


@dataclass
class HtmlTable:
    """A table as a reader of the page has it: texts, and the full numbers behind them."""

    caption: str = ""
    heads: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    numbers: list[list[list[float]]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def column(self, head: str) -> int:
        """Finds a column by its heading."""
        return self.heads.index(head)

    def row(self, name: str) -> int:
        """Finds a row by its heading."""
        return [row[0] for row in self.rows].index(name)

    def numbers_of(self, name: str, head: str) -> list[float]:
        """Gives the numbers of a cell."""
        return self.numbers[self.row(name)][self.column(head)]


# What the start of a row or cell, and the end of a table's body, end where nothing else has.
ENDED = {"td": ("td", "th"), "th": ("td", "th"), "tr": ("td", "th", "tr")}
VOID = {"meta", "link", "img", "br", "rect", "circle", "line", "path", "polygon", "hr"}


class Page(HTMLParser):
    """A report's page, parsed: its tables, its elements, and whether its tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[HtmlTable] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end(ENDED.get(tag, ()))
        found = {key: value or "" for key, value in attrs}
        self.elements.append((tag, found))
        if tag == "table":
            self.tables.append(HtmlTable())
        elif tag == "tr" and "tbody" in self._open:
            table = self.tables[-1]
            table.rows.append([])
            table.numbers.append([])
            table.kinds.append(found.get("class", ""))
        elif tag in ("td", "th") and "tbody" in self._open:
            self.tables[-1].rows[-1].append("")
            self.tables[-1].numbers[-1].append([])
        elif tag == "th":
            self.tables[-1].heads.append("")
        elif tag == "data":
            self.tables[-1].numbers[-1][-1].append(float(found["value"]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._end(ENDED["tr"])
        assert self._open.pop() == tag

    def _end(self, tags: tuple[str, ...]) -> None:
        """Ends rows and cells of a table of many, which leaves that out."""
        while self._open[-1:] and self._open[-1] in tags and self._many:
            self._open.pop()

    @property
    def _many(self) -> bool:
        (last,) = [found for tag, found in self.elements if tag == "table"][-1:]
        return "many" in last["class"]

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text.append(data)
        if "caption" in self._open:
            self.tables[-1].caption += data
        elif "tbody" in self._open:
            self.tables[-1].rows[-1][-1] += data
        elif "thead" in self._open:
            self.tables[-1].heads[-1] += data

    def all(self, *tags: str) -> list[dict[str, str]]:
        """Lists the attributes of all elements of some kinds."""
        return [attributes for tag, attributes in self.elements if tag in tags]

    def table(self, start: str) -> HtmlTable:
        """Finds the only table whose caption starts so."""
        (found,) = (table for table in self.tables if table.caption.startswith(start))
        return found


def per_class(path: Path) -> list[dict[str, object]]:
    """Reads a per-class table as the store has it."""
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def seeds(runs: dict[str, Run], trial: str) -> list[Run]:
    """Lists the runs of a finalist, a seed each."""
    return [run for name, run in sorted(runs.items()) if name.startswith(f"{trial}-seed")]


def artifact(run: Run, name: str) -> Path:
    """Finds a file of a run."""
    return Path(run.info.artifact_uri.removeprefix("file://")) / name
