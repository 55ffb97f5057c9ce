"""whet: own a small model that does your job.

The names of the notebook API load on first use, so that ``import whet`` itself is quick.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whet.data.merge import to_sharegpt
    from whet.data.turns import standardize_sharegpt
    from whet.notebook import FastLanguageModel, SFTConfig, SFTTrainer, is_bfloat16_supported
    from whet.notebook_data import apply_chat_template, get_chat_template, train_on_responses_only
    from whet.train.preference.notebook import (
        CPOConfig,
        CPOTrainer,
        DPOConfig,
        DPOTrainer,
        KTOConfig,
        KTOTrainer,
        ORPOConfig,
        ORPOTrainer,
    )
    from whet.train.preference.reward_notebook import RewardConfig, RewardTrainer

__version__ = "0.1.0"
__all__ = [
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

_HOMES = {
    "CPOConfig": "whet.train.preference.notebook",
    "CPOTrainer": "whet.train.preference.notebook",
    "DPOConfig": "whet.train.preference.notebook",
    "DPOTrainer": "whet.train.preference.notebook",
    "FastLanguageModel": "whet.notebook",
    "KTOConfig": "whet.train.preference.notebook",
    "KTOTrainer": "whet.train.preference.notebook",
    "ORPOConfig": "whet.train.preference.notebook",
    "ORPOTrainer": "whet.train.preference.notebook",
    "RewardConfig": "whet.train.preference.reward_notebook",
    "RewardTrainer": "whet.train.preference.reward_notebook",
    "SFTConfig": "whet.notebook",
    "SFTTrainer": "whet.notebook",
    "WhetError": "whet.errors",
    "apply_chat_template": "whet.notebook_data",
    "get_chat_template": "whet.notebook_data",
    "is_bfloat16_supported": "whet.notebook",
    "standardize_sharegpt": "whet.data.turns",
    "to_sharegpt": "whet.data.merge",
    "train_on_responses_only": "whet.notebook_data",
}


def starter_path() -> Path:
    """The folder of the embedded starter model; plain ``AutoModelForCausalLM.from_pretrained`` loads it too."""
    return Path(__file__).resolve().parent / "models" / "starter"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from whet.runtime import quick_imports

        with quick_imports():
            return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'whet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
