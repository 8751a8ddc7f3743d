"""What a sweep knows of its trials, kept in their folders so that a killed sweep can go on."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.scoring.objective import MIOU

RUNS = Path("runs")
TRIAL_FILE = "trial.json"
SCORES_FILE = "scores.json"
TEST_SCORES_FILE = "test.json"
CHECKPOINTS = "train"
"""Name of the folder in a trial's own that has its last checkpoint."""

TRAINED = "trained"
"""Name of the folder in a sweep's own that has what several of its trials share."""

FINALISTS = "finalists"
"""Name of the folder in a sweep's own that has what its finalists were trained to again."""

WORKERS = "resources.num_workers"
BATCH_SIZE = "train.batch_size"
BATCH_FILE = "batch_size.json"

EndStatus = Literal["FINISHED", "STOPPED", "FAILED", "KILLED"]
Status = Literal["RUNNING"] | EndStatus
ENDED: tuple[Status, ...] = ("FINISHED", "STOPPED")
"""States that a resumed sweep does not repeat; STOPPED is the scheduler's early end."""


@dataclass
class Trial:
    """One trial's record.

    Attributes:
        index: Its number in the sweep, from 0.
        method: Name of its method.
        sample: What it drew: dotted keys and values.
        settings: Its whole flattened config.
        epochs: How many it takes if nothing stops it, over all stages.
        status: Where it stands.
        metrics: Its last report.
        checkpoint: Folder of its last committed checkpoint.
        reason: Why it failed or was stopped.
        seconds: How long it has been trained and scored in its last life.
        seed: With which a finalist was trained again; `None` for a trial of the sweep itself.
        objective: The metric that it is ranked by; of every one, more is better.
    """

    # Another version's fields are no fields of this one's.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    index: int
    method: str
    sample: dict[str, Any]
    settings: dict[str, Any]
    epochs: int
    status: Status = "RUNNING"
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    seed: int | None = None
    objective: str = MIOU

    @property
    def name(self) -> str:
        """Name of the trial's folder and MLflow run."""
        return trial_name(self.index, self.seed)

    @property
    def place(self) -> str:
        """Where its folder lies in its sweep's."""
        return place_of(self.name)

    @property
    def num_workers(self) -> int | str:
        """In how many processes it is trained; 0 for the trial's own."""
        chosen: int | str = self.settings[WORKERS]
        return chosen

    @property
    def score(self) -> float | None:
        """What it is ranked by, if it has that: unsupervised mIoU in percent, unless told."""
        return self.metrics.get(self.objective)

    def save(self, sweep: Path) -> None:
        """Writes the record in one move."""
        write_json(sweep / self.name / TRIAL_FILE, asdict(self))


@dataclass(frozen=True)
class SplitScores:
    """The scores of one trial on one split under one protocol, with what stands beside them.

    Attributes:
        trial: Name of the trial.
        method: Name of its method.
        protocol: What they were measured under; see `protocols.stamp`.
        metrics: Scores by name, in percent.
        baselines: Scores of baselines under the same.
        crf: Which CRF refined some of them, `exact` or `lattice`; empty where none did.
        anyup: sha256 of the weights of AnyUp, which upsampled some of them; empty where none did.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    trial: str
    method: str
    protocol: str
    metrics: dict[str, float]
    baselines: dict[str, float]
    crf: str = ""
    anyup: str = ""

    def save(self, folder: Path) -> None:
        """Writes `scores.json`."""
        write_json(folder / SCORES_FILE, asdict(self))


def load_scored(run: Path) -> list[tuple[Path, SplitScores]]:
    """Reads all scores below a sweep's or a trial's folder, with where they lie.

    Raises:
        UserError: A file is damaged.
    """
    cure = "Remove it, and score again: --resume the sweep, or python -m usseg_ray.evaluate TRIAL."
    files = sorted(run.rglob(SCORES_FILE))
    return [(file.parent, read_json(file, SplitScores, cure)) for file in files]


def trial_name(index: int, seed: int | None = None) -> str:
    """Names a trial after its number, and after its seed if it is a finalist trained again."""
    return f"trial_{index:03d}" + ("" if seed is None else f"-seed{seed}")


def number_and_seed(name: str) -> tuple[int, int | None]:
    """Reads a trial's number back from its name, and its seed if it has one."""
    number, _, seed = name.removeprefix("trial_").partition("-seed")
    return int(number), int(seed) if seed else None


def place_of(name: str) -> str:
    """Says where a trial lies in its sweep's folder: a finalist trained again apart from others."""
    return name if number_and_seed(name)[1] is None else f"{FINALISTS}/{name}"


def note_batch_size(folder: Path, size: int) -> None:
    """Notes in a trial's folder that it goes on with smaller batches, for lack of memory."""
    write_json(folder / BATCH_FILE, size)


def noted_batch_size(folder: Path) -> int | None:
    """Reads the batch size that a trial went on with, if it ran out of memory.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / BATCH_FILE
    cure = "Remove it: the trial begins with the batch size of its settings."
    return read_json(path, int, cure) if path.exists() else None


def note_test_scores(folder: Path, metrics: dict[str, float]) -> None:
    """Notes what a run scored on the test split beside the arrays of that evaluation."""
    write_json(folder / TEST_SCORES_FILE, metrics)


def noted_test_scores(folder: Path) -> dict[str, float] | None:
    """Reads what `note_test_scores` wrote; `None` where that is nothing, or damaged."""
    try:
        return read_json(folder / TEST_SCORES_FILE, dict[str, float], "It is scored again.")
    except (FileNotFoundError, DamagedError):
        return None


def find_run(name: str) -> Path:
    """Finds a run's folder by its name under ./runs or its path.

    Raises:
        UserError: There is none; names those that exist.
    """
    for folder in (RUNS / name, Path(name)):
        if folder.is_dir():
            return folder
    # What lies hidden beside the runs, such as sets that were made for them, is none.
    there = sorted(path.name for path in RUNS.glob("[!.]*") if path.is_dir())[-5:]
    raise UserError(
        f"{name}: no such run in {RUNS.absolute()}"
        + (f"; the latest are {', '.join(there)}." if there else ", which is empty.")
    )


def local_copy(uri: str) -> Path:
    """Says where the driver of a run that is kept at a URI has its copy: under ./runs."""
    return RUNS / uri.partition("?")[0].rstrip("/").rpartition("/")[2]


def load_trials(sweep: Path) -> list[Trial]:
    """Reads the records of a sweep, in the order of their numbers."""
    return [load_trial(file.parent) for file in sorted(sweep.glob(f"trial_*/{TRIAL_FILE}"))]


def load_trial(folder: Path) -> Trial:
    """Reads the record of one trial from its folder.

    Raises:
        UserError: It is damaged, or of another version.
    """
    cure = "If another version of usseg_ray wrote it, read it with that; else move its folder away."
    return read_json(folder / TRIAL_FILE, Trial, cure)


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Orders trials by score, best first; those without one come last."""
    return sorted(trials, key=lambda t: (t.score is None, -(t.score or 0.0), t.index))


def best_of_each(trials: Iterable[Trial]) -> list[Trial]:
    """Finds each method's best trial that can be scored again, the best of all first."""
    best: dict[str, Trial] = {}
    for trial in ranked(trials):
        if trial.score is not None and trial.checkpoint:
            best.setdefault(trial.method, trial)
    return list(best.values())
