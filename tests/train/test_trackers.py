"""Trackers are off unless named; what the config says of them reaches transformers."""

from __future__ import annotations

import os

import pytest

from whet import runtime
from whet.config import parse_config
from whet.errors import MissingDependency
from whet.train import trackers

BASE = "base_model: starter\ndatasets:\n  - path: x.jsonl\nadapter: lora\n"


def test_nothing_is_named_by_default() -> None:
    config = parse_config(BASE)
    assert trackers.arguments(config)["report_to"] == "none"
    before = dict(os.environ)
    with trackers.environment(config):
        assert dict(os.environ) == before


def test_named_tracker_gets_its_settings_for_the_run_only() -> None:
    config = parse_config(BASE + "wandb_project: notes\nwandb_name: first\nwandb_mode: offline\n")
    assert trackers.arguments(config)["report_to"] == ["wandb"]
    assert trackers.arguments(config)["run_name"] == "first"
    with trackers.environment(config):
        assert os.environ["WANDB_PROJECT"] == "notes"
        assert os.environ["WANDB_MODE"] == "offline"
    assert "WANDB_PROJECT" not in os.environ


def test_trackio_settings_are_arguments() -> None:
    found = trackers.arguments(parse_config(BASE + "trackio_project_name: notes\n"))
    assert (found["report_to"], found["project"]) == (["trackio"], "notes")


@pytest.mark.parametrize("line", ["use_tensorboard: true\n", "mlflow_experiment_name: e\n"])
def test_missing_package_is_said_first(line: str) -> None:
    config = parse_config(BASE + line)
    if all(runtime.installed(name) for name in config.report_to):
        pytest.skip("the tracker is installed here")
    with pytest.raises(MissingDependency, match="pip install 'whet"):
        trackers.check_installed(config)
