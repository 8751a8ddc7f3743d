"""What trials of a sweep train once: the first one leaves it, the others cluster and score it.

A training is named by everything that it reads. A trial of a sweep whose training another one has
ended starts from that one's last state; which of them trains does not change what any of them
finds.
"""

import hashlib
import json

import torch

from usseg_ray import methods
from usseg_ray.core.config import flatten
from usseg_ray.core.records import DamagedError
from usseg_ray.engine.checkpoint import STATE_FILE, RunState
from usseg_ray.trials.job import Job
from usseg_ray.trials.storage import opened


def training_key(job: Job) -> str:
    """Names a job's training.

    Args:
        job: Method, settings and data.

    Returns:
        A digest of all that its training reads; empty where K is part of that.
    """
    untouched = methods.get(job.method).untouched(job.config.method)
    if "num_clusters" not in untouched:
        return ""
    read = {key: value for key, value in flatten(job.config).items() if key not in untouched}
    named = json.dumps([job.method, job.root, read], sort_keys=True)
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def load_trained(place: str, device: torch.device) -> RunState | None:
    """Reads what another trial left; `None` where none did, or where it is damaged.

    Args:
        place: Folder or URI of the training.
        device: Where its tensors go.
    """
    with opened(place) as storage:
        storage.fetch(STATE_FILE)
        if not RunState.is_in(storage.folder):
            return None
        try:
            return RunState.load(storage.folder, device)
        except DamagedError:
            return None


def save_trained(place: str, state: RunState) -> None:
    """Leaves a state for others, as a whole or not at all.

    Args:
        place: Folder or URI of the training.
        state: After its last epoch, without clusters.
    """
    with opened(place) as storage:
        state.save(storage.folder)
        storage.push(STATE_FILE)
