"""Shared by all tests: quiet, one thread per process, nothing outside temporary directories."""

import os

os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repo", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("repo")
