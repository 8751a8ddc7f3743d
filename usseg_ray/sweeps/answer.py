"""A sweep's answer in one sentence: what leads, what cannot be told apart from it, what to do next.

It stands after `finals`, whose statistics it puts into words, and before the screen, MLflow and the
report, which all show the same sentence. `conclude` sees plain values: no plan, cluster or store.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, stdev

from usseg_ray.core.cli import CONSOLE
from usseg_ray.engine.baselines import IN_CONTEXT, KMEANS
from usseg_ray.scoring.objective import MIOU, digits, kept_clusters, short
from usseg_ray.scoring.significance import FEWEST_SEEDS, MOST_SEEDS, Difference, seeds_that_tell
from usseg_ray.settings import BLIND, FLOORS
from usseg_ray.sweeps.finals.scores import Finalist
from usseg_ray.trials.trial import Trial, ranked

_SEEDS = 3
"""What `tune` takes unless told."""
_TRIALS = 8


@dataclass(frozen=True)
class Contender:
    """A trial that may be the answer.

    Attributes:
        name: Of the trial.
        method: Of its method.
        num_clusters: Its K.
        scores: Unsupervised mIoU on the test split for every seed, percent.
        behind: How far the first is before it; `None` for the first.
        collapsed: How many of its seeds predict next to one cluster alone.
        selection: What it is ranked by where nothing was scored on the test split.
        clusters: Which of several kinds of clusters it kept, if its method has several.
    """

    name: str
    method: str
    num_clusters: int | None
    scores: tuple[float, ...] = ()
    behind: Difference | None = None
    collapsed: int = 0
    selection: float = 0.0
    clusters: str = ""


@dataclass(frozen=True)
class Findings:
    """What a sweep's answer is made of.

    Attributes:
        contenders: Finalists with test scores, the best of the selection split first; where nothing
            was scored on the test split, the ranked trials without scores.
        half_width: Half of the 95 % interval of the first one's mean, over seeds and images;
            `None` where there are too few seeds.
        baselines: Their unsupervised mIoU on the test split, percent.
        split: The test split.
        picked: What picked settings and finalists; empty where there was no choice.
        command: Repeats the sweep; empty if it is not known.
        num_samples: Trials of each method.
        objective: What trials are ranked by.
    """

    contenders: Sequence[Contender]
    half_width: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    split: str = "test"
    picked: str = ""
    command: str = ""
    num_samples: int = 1
    objective: str = MIOU


@dataclass(frozen=True)
class Answer:
    """A sweep's answer.

    Attributes:
        sentence: What was found, and what to do next.
        command: Does it; empty where there is none to type.
    """

    sentence: str
    command: str = ""

    def tags(self) -> dict[str, str]:
        """Writes it as the tags of the sweep's run, which the report opens with."""
        # An empty one too: it stands in place of that of an earlier life.
        return {"usseg.answer": self.sentence, "usseg.answer_command": self.command}

    def note(self) -> str:
        """Writes it as the description that MLflow shows with the sweep's run, in Markdown."""
        return f"{self.sentence}\n\n```sh\n{self.command}\n```" if self.command else self.sentence


@dataclass(frozen=True)
class _Rival:
    """Something that the first finalist is compared with."""

    name: str
    first: Difference
    scores: tuple[float, ...]

    @property
    def better(self) -> bool:
        """Whether it is before the first one by more than noise."""
        return self.first.high is not None and self.first.high < 0


def contenders(trials: Iterable[Trial], finalists: Sequence[Finalist]) -> list[Contender]:
    """Lists what may be a sweep's answer: its finalists, or its ranked trials where it has none."""
    if not finalists:
        return [
            Contender(
                t.name,
                t.method,
                _k(t),
                collapsed=int(t.metrics.get("collapsed", 0)),
                selection=t.score,
                clusters=kept_clusters(t.metrics),
            )
            for t in ranked(trials)
            if t.score is not None and t.status != "FAILED"
        ]
    return [
        Contender(
            one.trial.name,
            one.trial.method,
            _k(one.trial),
            tuple(scores[MIOU] for scores in one.scores.values()),
            one.behind,
            sum(scores.get("collapsed", 0) > 0 for scores in one.scores.values()),
            clusters=kept_clusters(one.trial.metrics),
        )
        for one in finalists
    ]


def _k(trial: Trial) -> int | None:
    return trial.settings.get("num_clusters")


def conclude(found: Findings) -> Answer:
    """Says what a sweep found.

    The first finalist of the selection split leads, whatever the test split says: choosing by that
    one would be choosing by its labels. Another finalist is told from it by the paired interval. A
    baseline has one value and no counts of images: it is within noise where it lies in the first
    finalist's own 95 % interval over seeds and images. That the images are the same makes this
    interval too wide rather than too narrow, if the two find the same images hard; the baseline's
    own noise of seeds is not in it.

    Args:
        found: The sweep's statistics.

    Returns:
        One sentence, and the command that it ends with.
    """
    if not found.contenders:
        return Answer("No trial came to its end, so nothing leads: the first causes stand above.")
    first = found.contenders[0]
    if not first.scores:
        return _unscored(found)
    rivals = [*_finalists(found), *_baselines(found)]
    start = f"{_title(first)}: {_mean(first)} mIoU on {found.split}"
    floors = [r for r in rivals if r.name in map(_called, BLIND)]
    below = [r for r in floors if r.first.mean <= 0]
    if first.collapsed:
        start += f", but {first.collapsed} of {len(first.scores)} seeds collapsed: no result to use"
        return _end(found, start, "other settings may not collapse", _more_trials(found))
    if below:
        named = " and ".join(f"{r.name} ({fmean(r.scores):.1f})" for r in below)
        start += f", which is not above {named}: nothing was learnt from the images"
        return _end(found, start, "other settings may", _more_trials(found))
    others = [r for r in rivals if r not in floors or not _above(r)]
    if len(first.scores) < FEWEST_SEEDS:
        return _one_seed(found, start, others)
    return _compared(found, start, others)


def _compared(found: Findings, start: str, rivals: Sequence[_Rival]) -> Answer:
    """Concludes where the first finalist has an interval."""
    lacking = [rival for rival in rivals if rival.first.low is None]
    unknown = [rival for rival in rivals if rival.first.verdict and rival not in lacking]
    told = [rival for rival in rivals if not rival.first.verdict]
    better = [rival for rival in told if rival.better]
    parts = [start + _lead([rival for rival in told if rival not in better])]
    parts += [f"{r.name} scores {-r.first.mean:.1f} more" for r in better]
    if lacking:
        verb = "has" if len(lacking) == 1 else "have"
        parts.append(f"{_list(lacking)} {verb} too few seeds that ended to compare")
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        parts.append(f"{_list(unknown)} {verb} within noise")
        return _end(found, "; ".join(parts), *_seeds(found, unknown))
    if better:
        return _end(found, "; ".join(parts), "other settings may lead", _more_trials(found))
    if lacking:
        return _end(found, "; ".join(parts), "--resume tries the runs that failed again")
    model = f"its model is finalists/{found.contenders[0].name}/model"
    return _end(found, "; ".join(parts), model)


def _seeds(found: Findings, unknown: Sequence[_Rival]) -> tuple[str, str]:
    """Says how many seeds would tell what cannot be told apart, and with which command."""
    scores = found.contenders[0].scores
    needed = {r.name: seeds_that_tell(r.first, scores, r.scores) for r in unknown}
    enough = [count for count in needed.values() if count is not None]
    never = [r for r in unknown if needed[r.name] is None]
    if not enough:
        return f"not even {MOST_SEEDS} seeds would tell, take what costs least", ""
    hint = f"{max(enough)} seeds would tell"
    if never:
        hint += f" {_list([r for r in unknown if r not in never])} from it, "
        hint += f"not even {MOST_SEEDS} would {_list(never)}"
    return hint, _with(found.command, {"--seeds": max(enough)})


def _one_seed(found: Findings, start: str, rivals: Sequence[_Rival]) -> Answer:
    """Concludes where nothing is known of how far seeds lie apart."""
    rival_scores = "; ".join(f"{r.name} has {fmean(r.scores):.1f}" for r in rivals)
    start = "; ".join(filter(None, (f"{start} with one seed", rival_scores)))
    first, *others = found.contenders
    if any(len(one.scores) > len(first.scores) for one in others):
        return _end(found, start, "--resume tries its other runs, which failed, again")
    hint = f"one seed does not say what is noise, {_SEEDS} seeds would"
    return _end(found, start, hint, _with(found.command, {"--seeds": _SEEDS}))


def _unscored(found: Findings) -> Answer:
    """Concludes where no labels of a test split say how good the first one is."""
    first, *others = found.contenders
    start = f"{_title(first)} is the only trial that ended"
    if others:
        next_one, places = others[0], digits(found.objective)
        own, other = (f"{one.selection:.{places}f}" for one in (first, next_one))
        verb = "is level with" if own == other else "leads"
        start = f"{_title(first)} {verb} {_told_apart(next_one, found.contenders)}"
        start += f" by {short(found.objective)} ({own} to {other})"
    start += ", but it collapsed" if first.collapsed else ""
    start += f"; nothing was scored on {found.split}"
    return _end(found, start, f"the pictures of {first.name} show what it is worth")


def _finalists(found: Findings) -> list[_Rival]:
    return [
        _Rival(_told_apart(one, found.contenders), one.behind, one.scores)
        for one in found.contenders[1:]
        if one.behind is not None
    ]


def _told_apart(one: Contender, among: Sequence[Contender]) -> str:
    """Names a contender by its method, by its K too, or by its trial, as far as that takes."""
    names = (one.method, _title(one), one.name)
    alike = (
        sum(other.method == one.method for other in among),
        sum(_title(other) == _title(one) for other in among),
        1,
    )
    return names[alike.index(1)]


def _baselines(found: Findings) -> list[_Rival]:
    """Lists the baselines that need no labels; k-means at the data's own K, whatever K leads."""
    first, half = found.contenders[0], found.half_width
    rivals = []
    for name in (*FLOORS, KMEANS, IN_CONTEXT):
        score = found.baselines.get(name)
        if score is None:
            continue
        mean = fmean(first.scores) - score
        ends = (None, None) if half is None else (mean - half, mean + half)
        rivals.append(_Rival(_called(name), Difference(mean, *ends), (score,)))
    return rivals


def _called(baseline: str) -> str:
    if baseline in FLOORS:
        return f"the floor {baseline}"
    same = "k-means of the same features"
    return f"{same} in context" if baseline == IN_CONTEXT else same


def _above(rival: _Rival) -> bool:
    low = rival.first.mean if rival.first.low is None else rival.first.low
    return low > 0


def _title(one: Contender) -> str:
    title = f"{one.method}, K = {one.num_clusters}" if one.num_clusters else one.method
    return f"{title}, clusters: {one.clusters}" if one.clusters else title


def _mean(one: Contender) -> str:
    spread = f" ± {stdev(one.scores):.1f}" if len(one.scores) > 1 else ""
    return f"{fmean(one.scores):.1f}{spread}"


def _lead(told: Sequence[_Rival]) -> str:
    """Says by how much the first one leads what comes next."""
    nearest = min(told, key=lambda rival: rival.first.mean, default=None)
    return f", {nearest.first.mean:.1f} above {nearest.name}" if nearest else ""


def _list(rivals: Sequence[_Rival]) -> str:
    *head, last = [rival.name for rival in rivals]
    return f"{', '.join(head)} and {last}" if head else last


def _end(found: Findings, start: str, hint: str, command: str = "") -> Answer:
    picked = f" ({found.picked})" if found.picked else ""
    return Answer(f"{start}: {hint}{picked}.", command)


def _more_trials(found: Findings) -> str:
    return _with(found.command, {"--num-samples": max(_TRIALS, 2 * found.num_samples)})


def _with(command: str, options: Mapping[str, int]) -> str:
    """Writes a command with other options, in a folder of its own; `tune` for one of `train`.

    Runs of `reproduce` have the settings that were published: there is nothing to vary.
    """
    words = shlex.split(command)
    # `usseg-ray COMMAND`, `python -m usseg_ray COMMAND` or `python -m usseg_ray.COMMAND`.
    at = 1 if words[:1] == [CONSOLE] else 3 if words[2:3] == ["usseg_ray"] else 2
    called = words[at] if at < len(words) else "reproduce"
    if called.endswith("reproduce"):
        return ""
    if called.endswith("train"):
        words[at] = called.removesuffix("train") + "tune"
        options = {"--num-samples": 1, **options}
    dropped, kept = (*options, "--out"), list[str]()
    for before, word in pairwise(["", *words]):
        if before not in dropped and word.partition("=")[0] not in dropped:
            kept.append(word)
    return shlex.join([*kept, *(str(part) for pair in options.items() for part in pair)])
