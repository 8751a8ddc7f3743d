"""Distributed training, sweeping and honest scoring of unsupervised semantic segmentation.

Ray and MLflow read their environment when they are first imported, so it is set here, before
either can be; whatever the user set stays.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path

# Their types stand in __init__.pyi.
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_ENVIRONMENT = {
    # Nothing leaves the machine unless its user says so.
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # `report` waits for the training controller's next poll: Ray's 2 s would be paid every epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A helper process a trial that has nothing to do here.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Ray ends idle workers after a second and keeps no more than one a core; a reading task that
    # has to start a process and import torch takes seconds instead of milliseconds.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_num_workers_soft_limit": "16",
    # It says that processes with small CPU shares were started, which is what is meant here.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    # glibc gives large blocks back to the system at once, and a network's activations are large
    # blocks: on a CPU most of a forward pass was page faults. For the processes that Ray starts.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    # Results are kept by the sweep itself, in a form that survives Ray's versions.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A stage without a score (CAUSE's clusterbook) reports no `unsup_miou`.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C ends a sweep at once; its folder is what it resumes from, not Tune's own state.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The older reporter keeps silent at verbosity 0; the newer one prints a box all the same.
    "RAY_AIR_NEW_OUTPUT": "0",
}
_RUNNING = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
if (Path.home() / "ray_bootstrap_config.yaml").exists() and _RUNNING.exists():
    # The head of a cluster that `ray up` started: what `ray submit` runs here belongs to it.
    _ENVIRONMENT["RAY_ADDRESS"] = "auto"
_ALONE = os.environ.get("RAY_ADDRESS", _ENVIRONMENT.get("RAY_ADDRESS", "")) in ("", "local")
# Another one, that watches for nodes about to go. Trials inherit the driver's choice.
_ENVIRONMENT["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0" if _ALONE else "1"
if _ALONE:
    # Where no cluster is to be joined, Ray's ports are bound to loopback instead of every
    # interface; this is Ray's switch for it, named after the systems on which it is the default.
    _ENVIRONMENT["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# Their types stand in __init__.pyi.
_OFFERED = ("load", "fit", "sweep", "prepare", "export")


class _Callable(ModuleType):
    """A command's module, which is also the function of its name: `usseg_ray.prepare(...)`."""

    def __call__(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 (whatever it takes)
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module("usseg_ray.api"), name)(*args, **options)


class _Package(ModuleType):
    """This package; the import system puts modules into it, which would hide what is offered."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OFFERED and isinstance(value, ModuleType):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever is offered by that name)
    """Imports what is offered when it is first asked for."""
    if name in _OFFERED:
        return getattr(importlib.import_module("usseg_ray.api"), name)
    raise AttributeError(f"module 'usseg_ray' has no attribute {name!r}")
