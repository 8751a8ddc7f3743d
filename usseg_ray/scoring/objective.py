"""What the trials of a sweep are ranked by: unsupervised mIoU, or a criterion without labels.

`plan` resolves what was asked; from there on every trial carries the name of its objective, and
whoever ranks, stops or searches looks at that metric. Of every objective more is meant to be
better. `label_free` measures the criteria, but for the consensus.
"""

from collections.abc import Mapping

from usseg_ray.core.errors import UserError, did_you_mean
from usseg_ray.data.manifest import Manifest

AUTO, LABEL_FREE = "auto", "label_free"
MIOU = "unsup_miou"
PREFIX = "label_free."
STABILITY, VIEW_AGREEMENT = f"{PREFIX}stability", f"{PREFIX}view_agreement"
VIEW_INFORMATION = f"{PREFIX}view_information"
SILHOUETTE, MODULARITY = f"{PREFIX}silhouette", f"{PREFIX}modularity"
ENTROPY, USED_SHARE = f"{PREFIX}entropy", f"{PREFIX}used_share"
CRITERIA = (
    STABILITY,
    VIEW_AGREEMENT,
    VIEW_INFORMATION,
    SILHOUETTE,
    MODULARITY,
    ENTROPY,
    USED_SHARE,
)
"""What is measured of every scored epoch."""
CONSENSUS = f"{PREFIX}consensus"
"""Agreement with other trials, which is there when all have ended."""
OBJECTIVES = (MIOU, *CRITERIA, CONSENSUS)
WITHOUT_LABELS = VIEW_INFORMATION
"""What `label_free` stands for, and `auto` where nothing is labelled."""
KINDS = "clusters."
"""Before each kind of clusters of a method that has several: their `WITHOUT_LABELS`."""


def kept_clusters(metrics: Mapping[str, float]) -> str:
    """Names the kind of clusters that a trial kept; empty where its method has one kind.

    Args:
        metrics: Of the trial; of kinds that are equal it kept `kmeans`.
    """
    found = [(value, name) for name, value in metrics.items() if name.startswith(KINDS)]
    best = max(found, key=lambda one: (one[0], one[1] == f"{KINDS}kmeans"), default=(0.0, ""))
    return best[1].removeprefix(KINDS)


def resolve_objective(asked: str, manifest: Manifest, split: str) -> str:
    """Says what trials are ranked by.

    Args:
        asked: `--objective`.
        manifest: Of the data.
        split: The selection split.

    Returns:
        A metric's name. `auto` is unsupervised mIoU where the data has labels, unless the
        selection split has none.

    Raises:
        UserError: There is no such objective.
    """
    if asked == LABEL_FREE:
        return WITHOUT_LABELS
    if asked == AUTO:
        info = manifest.splits.get(split)
        labelled = info.labelled if info else any(s.labelled for s in manifest.splits.values())
        return MIOU if labelled else WITHOUT_LABELS
    if asked not in OBJECTIVES:
        choices = ", ".join((AUTO, LABEL_FREE, *OBJECTIVES))
        hint = did_you_mean(asked, OBJECTIVES, f"; choose one of {choices}.")
        raise UserError(f"--objective {asked} does not exist{hint}")
    return asked


def picked_by(objective: str, split: str) -> str:
    """Says what picked the settings, the K and the finalists of a sweep that had a choice.

    Args:
        objective: What its trials are ranked by; searchers and schedulers look at it too.
        split: The selection split.
    """
    if objective == MIOU:
        return f"settings picked by labels of {split}"
    return f"settings picked without labels, by {objective} on {split}"


def require_labels(manifest: Manifest, split: str, root: str) -> None:
    """Checks that trials can be ranked by unsupervised mIoU.

    Args:
        manifest: Of the data.
        split: The selection split.
        root: Where the data lies, for the error.

    Raises:
        UserError: The split does not exist or has no labels.
    """
    if split not in manifest.splits:
        raise UserError(
            f"{root} has no split {split!r} to rank trials on, only "
            f"{', '.join(manifest.splits)}: --set data.selection_split=NAME, or run train."
        )
    if not manifest.splits[split].labelled:
        raise UserError(
            f"{root}: split {split!r} has no labels to rank trials by {MIOU}; "
            f"--objective {WITHOUT_LABELS} ranks them without."
        )


def short(objective: str) -> str:
    """Names an objective at the head of a column."""
    return objective.removeprefix(PREFIX)


def digits(objective: str) -> int:
    """Says how many digits after the point tell scores apart: criteria lie between -1 and 1."""
    return 3 if objective.startswith(PREFIX) else 1
