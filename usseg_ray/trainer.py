"""One trial: a Tune function that launches a `TorchTrainer` and passes its reports on.

Kept light on purpose (no torch at import): Ray imports it in the helper processes of every trial.
"""

from typing import Any

from ray import tune
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.tune.integration.ray_train import TuneReportCallback

from usseg_ray.cluster import worker_resources
from usseg_ray.config import ResourceConfig
from usseg_ray.job import Jobs

CHECKPOINTS = "train"
TRIAL_MEMORY_BYTES = 256 * 2**20
COLLECTIVE_TIMEOUT_S = 600


def train_worker(payload: dict[str, Any]) -> None:
    """Runs in every worker of the group."""
    from usseg_ray import worker  # noqa: PLC0415 (torch and timm: for workers only)

    worker.train(payload["job"], payload["folder"])


def run_trial(config: dict[str, Any], jobs: Jobs, folder: str) -> None:
    """Fits one trial from inside a Tune function.

    Args:
        config: `{"index": i}` for a planned trial, else what the searcher drew.
        jobs: The sweep's jobs.
        folder: The sweep's folder.

    Raises:
        ray.train.TrainingFailedError: A worker failed twice.
    """
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415 (imports torch)

    home = f"{folder}/{tune.get_context().get_trial_name()}"
    job = jobs.job(jobs.draw(config))
    resources = ResourceConfig(
        **{k.split(".")[1]: v for k, v in job.settings.items() if k.startswith("resources.")}
    )
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "folder": home},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=job.device == "cuda",
            resources_per_worker=worker_resources(resources, job.device),
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=home,
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=1),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.fit()
