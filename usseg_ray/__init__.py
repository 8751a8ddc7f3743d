"""Distributed training, sweeping and honest scoring of unsupervised semantic segmentation.

Nothing leaves the machine unless its user says so: Ray's usage statistics and MLflow's telemetry
read these variables when they are first imported, so they are set here, before either can be.
"""

import os

__version__ = "0.1.0"

for _name, _value in (
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
):
    os.environ.setdefault(_name, _value)
