"""The public names of ``whet``: changing them is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import whet

PUBLIC = [
    "CPOConfig",
    "CPOTrainer",
    "DPOConfig",
    "DPOTrainer",
    "FastLanguageModel",
    "KTOConfig",
    "KTOTrainer",
    "ORPOConfig",
    "ORPOTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SFTConfig",
    "SFTTrainer",
    "WhetError",
    "apply_chat_template",
    "get_chat_template",
    "is_bfloat16_supported",
    "standardize_sharegpt",
    "starter_path",
    "to_sharegpt",
    "train_on_responses_only",
]


def test_all_is_what_it_was() -> None:
    assert whet.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(whet))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    member = getattr(whet, name)
    assert callable(member) and member.__doc__
    assert member.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="FastLanguageModle"):
        whet.FastLanguageModle  # noqa: B018


def test_the_starter_is_in_the_package() -> None:
    folder = whet.starter_path()
    assert folder.is_absolute() and folder.is_relative_to(Path(whet.__file__).parent)
    assert {"config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


def test_import_whet_loads_nothing_heavy() -> None:
    code = "import sys, whet; whet.starter_path(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "datasets", "pydantic", "numpy", "rich", "yaml"} & set(
        done.stdout.split()
    ) == set()
