"""What this machine cannot is replaced and said once; what it can is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from whet import console, runtime
from whet.train.fallback import (
    NEED_BITSANDBYTES,
    NEED_TORCHAO,
    PACKAGES,
    PLAIN,
    mixed_precision,
    optimizer_name,
    settle,
    weights_asked,
)

pytestmark = pytest.mark.skipif(runtime.device().type == "cuda", reason="about machines without an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _new_notices() -> None:
    console.forget_notices()


def test_the_names_are_transformers_own() -> None:
    known = {name.value for name in OptimizerNames}
    assert set(NEED_BITSANDBYTES) <= known | {"paged_adamw", "ademamix"}
    assert {name for name in known if "8bit" in name and "torch" not in name and "galore" not in name} <= set(
        NEED_BITSANDBYTES
    )


@pytest.mark.parametrize("name", NEED_BITSANDBYTES)
def test_an_optimizer_of_bitsandbytes_becomes_plain_adamw(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert optimizer_name(name) == optimizer_name(name) == PLAIN
    said = capsys.readouterr().err
    assert said.count("note:") == 1 and f"{name} needs" in said and PLAIN in said


@pytest.mark.parametrize(("name", "package"), [*((name, "torchao") for name in NEED_TORCHAO), ("lomo", "lomo_optim")])
def test_a_package_that_is_not_there_is_named(name: str, package: str, capsys: pytest.CaptureFixture[str]) -> None:
    if runtime.installed(package):
        pytest.skip(f"{package} is installed")
    assert optimizer_name(name) == PLAIN
    assert f"{name} needs {package} (pip install" in capsys.readouterr().err


def test_every_name_that_needs_a_package_is_transformers_own() -> None:
    known = [name.value for name in OptimizerNames]
    assert all(any(name.startswith(start) for name in known) for start in PACKAGES)
    own = {"adafactor", "sgd", "adagrad", "rmsprop", "adamw_torch", "adamw_torch_fused"}
    assert own == {n for n in known if n not in NEED_BITSANDBYTES and not any(n.startswith(s) for s in PACKAGES)}


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adafactor"])
def test_other_optimizers_stay(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert optimizer_name(name) == name
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("bf16", "fp16", "words"),
    [
        (True, False, "" if runtime.cpu_bf16_gain() >= runtime.BF16_GAIN else "bf16 is slow"),
        (False, True, "fp16 is slow"),
        ("auto", False, ""),
        (False, False, ""),
        (None, False, ""),
    ],
)
def test_a_cpu_has_no_autocast(
    bf16: bool | str | None, fp16: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixed_precision(bf16, fp16) == (False, False)
    said = capsys.readouterr().err
    assert words in said and (said == "") == (words == "")


@pytest.mark.skipif(runtime.device().type != "cpu", reason="about CPUs")
@pytest.mark.parametrize(
    ("bf16", "frozen", "expected"),
    [
        (False, True, torch.float32),
        ("auto", True, None),
        (True, True, None),
        (None, True, None),
        ("auto", False, torch.float32),
        (False, False, torch.float32),
        (None, False, torch.float32),
        (True, False, None),
    ],
)
def test_bf16_false_keeps_a_cpu_in_float32(bf16: bool | str | None, frozen: bool, expected: torch.dtype | None) -> None:
    assert weights_asked(bf16, frozen=frozen) is expected


def test_settled_arguments_are_a_copy(tmp_path: Path) -> None:
    given = TrainingArguments(
        output_dir=str(tmp_path), report_to="none", lr_scheduler_type="cosine", learning_rate=3e-4
    )
    given.optim, given.bf16 = OptimizerNames.ADAMW_8BIT, True  # as a notebook written for a GPU sets them
    settled = settle(given)
    assert settled is not given
    assert (settled.optim, settled.bf16, settled.fp16) == (OptimizerNames.ADAMW_TORCH, False, False)
    assert settled.mixed_precision == "no"
    assert (settled.lr_scheduler_type, settled.learning_rate) == (SchedulerType.COSINE, 3e-4)
    assert (given.optim, given.bf16) == (OptimizerNames.ADAMW_8BIT, True)
