"""`python -m tests.gate.writers`: 500 threads of five sweeps log at once; the store has it all.

Each sweep's ledger takes what 100 trials report at the same time, and all write to one MLflow
store, as sweeps of one folder do.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlflow import MlflowClient

from tests.ledgers import opened, runs

SWEEPS, TRIALS, POINTS = 5, 100, 20


def write(sweep: str) -> None:
    """Logs the points of a sweep's trials, each from a thread of its own."""
    with opened(sweep=sweep) as ledger:

        def report(trial: int) -> None:
            ledger.open_trial(f"t{trial}", {}, {})
            for step in range(POINTS):
                ledger.log(f"t{trial}", {"unsup_miou": float(1000 * trial + step)}, step=step)
            ledger.close_trial(f"t{trial}", "FINISHED")

        with ThreadPoolExecutor(TRIALS) as trials:
            list(trials.map(report, range(TRIALS)))


def lost(folder: Path) -> int:
    """Counts points that are not in the store as they were logged."""
    client, missing = MlflowClient(f"sqlite:///{folder}/mlflow.db"), 0
    for number in range(SWEEPS):
        found = runs(folder, sweep=f"s{number}")
        for trial in range(TRIALS):
            run = found.get(f"t{trial}")
            history = client.get_metric_history(run.info.run_id, "unsup_miou") if run else []
            kept = sorted((point.step, point.value) for point in history)
            wanted = [(step, float(1000 * trial + step)) for step in range(POINTS)]
            missing += len(set(wanted) - set(kept)) + len(kept) - len(set(kept))
    return missing


def main() -> None:
    """Writes, and reads it all back; ends with 1 where a point is missing or there twice."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        began = time.monotonic()
        with ThreadPoolExecutor(SWEEPS) as sweeps:
            list(sweeps.map(write, [f"s{number}" for number in range(SWEEPS)]))
        took = time.monotonic() - began
        missing = lost(Path(folder))
        os.chdir("/")
    total = SWEEPS * TRIALS * POINTS
    print(f"{SWEEPS * TRIALS} writers, {total:,} points in {took:.0f} s: {missing} lost or twice")
    sys.exit(int(missing > 0))


if __name__ == "__main__":
    main()
