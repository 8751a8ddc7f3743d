"""One run in one process: stages, epochs, checkpoints, baselines."""
