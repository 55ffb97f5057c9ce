"""Settings of the trackers (Weights & Biases, MLflow, trackio), in the form in which transformers takes them.

transformers' integrations read most of them from the environment. They are set for the time of the training only, and
only for a tracker that the config names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from whet import runtime
from whet.config import RunConfig
from whet.errors import MissingDependency

_VARIABLES = {
    "wandb": {
        "WANDB_PROJECT": "wandb_project",
        "WANDB_ENTITY": "wandb_entity",
        "WANDB_RUN_ID": "wandb_run_id",
        "WANDB_MODE": "wandb_mode",
        "WANDB_WATCH": "wandb_watch",
        "WANDB_LOG_MODEL": "wandb_log_model",
    },
    "mlflow": {
        "MLFLOW_TRACKING_URI": "mlflow_tracking_uri",
        "MLFLOW_EXPERIMENT_NAME": "mlflow_experiment_name",
        "HF_MLFLOW_LOG_ARTIFACTS": "hf_mlflow_log_artifacts",
    },
}


def check_installed(config: RunConfig) -> None:
    """Say before the work begins that a named tracker is missing.

    Raises:
        MissingDependency: with the command that adds it.
    """
    for name in config.report_to:
        if not runtime.installed(name):
            raise MissingDependency(f"the tracker {name} is not installed", fix=f"pip install 'whet[{name}]'")


def arguments(config: RunConfig) -> dict[str, Any]:
    """What transformers takes as arguments."""
    name = config.wandb_name or config.mlflow_run_name or config.trackio_run_name
    found: dict[str, Any] = {"report_to": config.report_to or "none", "run_name": name}
    if "trackio" in config.report_to:
        found |= {"trackio_space_id": config.trackio_space_id}
        if config.trackio_project_name:
            found["project"] = config.trackio_project_name
    return found


@contextlib.contextmanager
def environment(config: RunConfig) -> Iterator[None]:
    """Set what transformers reads from the environment, and put everything back afterwards."""
    values = {
        variable: str(value)
        for tracker in config.report_to
        for variable, key in _VARIABLES.get(tracker, {}).items()
        if (value := getattr(config, key)) is not None
    }
    before = {variable: os.environ.get(variable) for variable in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
