"""``whet plan``: rows and steps as training makes them, memory and time, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from whet import api
from whet.cli import main
from whet.config import parse_config
from whet.config.sizes import format_size, parse_size
from whet.console import forget_notices
from whet.engine.rates import H200
from whet.errors import ConfigError, WhetError
from whet.train import plan as run_plan

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]


@pytest.fixture(autouse=True)
def _notices_are_said_again() -> None:
    forget_notices()


@pytest.fixture
def config(tmp_path: Path, tiny_llama_dir: Path) -> Path:
    rows = [
        {"prompt": f"Question: {a} and {b}?\nAnswer:\n", "completion": " ".join(WORDS[: 1 + (a * b) % 7])}
        for a in range(8)
        for b in range(5)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys: dict[str, Any] = {
        "base_model": str(tiny_llama_dir),
        "datasets": [{"path": str(tmp_path / "rows.jsonl")}],
        "adapter": "lora",
        "lora_r": 2,
        "sequence_len": 96,
        "gradient_accumulation_steps": 2,
        "num_epochs": 2,
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "c.yml").write_text(yaml.safe_dump(keys))
    return tmp_path / "c.yml"


@pytest.mark.parametrize("packing", ["true", "false"])
def test_rows_and_steps_are_those_of_training(config: Path, packing: str) -> None:
    overrides = [f"sample_packing={packing}", "micro_batch_size=3", "sequence_len=64"]
    plan = api.plan(config, overrides=overrides)
    run = api.train(config, overrides=overrides)
    manifest = json.loads((run / "manifest.json").read_text())
    assert plan.steps.count == manifest["steps"]
    assert len(plan.rows.train) == 40
    assert 0 < plan.steps.fill <= 1 and plan.steps.typical.tokens <= plan.steps.largest.tokens <= 3 * 64


def test_the_verb_shows_memory_time_and_alternatives(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plan", str(config), "--gpu", "24GiB", "--max-memory", "2GiB"]) == 0
    shown = capsys.readouterr().out
    for words in ("24.00 GiB", "2.00 GiB", "peak memory", "tokens/s", "least memory", "4-bit weights", "assumed"):
        assert words in shown
    assert not (config.parent / "run").exists()


def test_small_micro_batches_are_planned_at_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = api.plan(config, gpu="24GiB")
    assert plan.plan is not None and plan.plan.at_once == 2
    assert main.run(["plan", str(config), "--gpu", "24GiB"]) == 0
    assert "2 micro-batches at once (fastest that fits)" in " ".join(capsys.readouterr().out.split())
    for overrides in (["gradient_checkpointing=unsloth"], ["gradient_accumulation_steps=1"]):
        other = api.plan(config, gpu="24GiB", overrides=overrides)
        assert other.plan is not None and other.plan.at_once == 1


def test_a_cpu_is_said_to_be_rough(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plan", str(config)]) == 0
    assert "rough" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_after_it_was_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plan", str(config), "--gpu", "h200", "--set", "max_memory=1MiB"]) == 2
    captured = capsys.readouterr()
    assert "least memory" in captured.out and "lower micro_batch_size" in captured.err


def test_qlora_is_planned_with_packed_weights(config: Path) -> None:
    lora = api.plan(config, gpu="h200")
    qlora = api.plan(config, gpu="h200", overrides=["adapter=qlora"])
    assert lora.plan is not None and qlora.plan is not None
    assert any("4-bit" in name for name in lora.others) and any("16-bit" in name for name in qlora.others)


def test_streamed_weights_are_listed_where_others_do_not_fit(config: Path) -> None:
    roomy = api.plan(config, gpu="24GiB")
    assert roomy.plan is not None and roomy.plan.fits and not any("streamed" in name for name in roomy.others)
    least = min(choice.reserved_bytes for choice in (roomy.plan, *roomy.plan.alternatives))
    for adapter in ("lora", "qlora"):
        tight = api.plan(config, max_memory=str(least - 2**20), gpu="24GiB", overrides=[f"adapter={adapter}"])
        assert "fastest that fits, 16-bit weights, streamed" in tight.others
        assert tight.main_memory == 0


def test_streamed_weights_are_named_and_their_main_memory(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_plan, "_storage", lambda *_: "streamed")
    plan = api.plan(config, gpu="24GiB")
    plan.print()
    said = " ".join(capsys.readouterr().out.split())
    assert f"main memory {format_size(plan.main_memory)} page-locked: the layers' weights" in said
    for words in ("fastest that fits *, 16-bit weights, streamed", "least memory, 16-bit weights,", "4-bit weights"):
        assert words in said
    plan.check()  # another machine's main memory is not known
    here = replace(plan, device=plan.device._replace(main_memory=plan.main_memory * 2))
    here.check()
    here.print()
    assert f"of {format_size(plan.main_memory * 2)} free" in capsys.readouterr().out
    with pytest.raises(WhetError, match="stream_weights"):
        replace(plan, device=plan.device._replace(main_memory=plan.main_memory)).check()


@pytest.mark.parametrize(
    ("kind", "keys", "storage"),
    [
        ("cuda", {}, "streamed"),
        ("cuda", {"stream_weights": False}, "dense"),
        ("cuda", {"adapter": "qlora"}, "nf4"),
        ("cpu", {}, "dense"),
    ],
)
def test_where_weights_are_streamed(kind: str, keys: dict[str, Any], storage: str) -> None:
    asked: Any = SimpleNamespace(**{"adapter": "lora", "load_in_4bit": False, "stream_weights": True, **keys})
    assert run_plan._storage(asked, SimpleNamespace(), run_plan.Device(H200, kind, 1)) == storage


def test_recompute_in_the_yaml_is_recompute_in_the_plan(config: Path) -> None:
    plan = api.plan(config, gpu="h200", overrides=["gradient_checkpointing=true"]).plan
    assert plan is not None and set(plan.policies) == {"full"}


def test_full_fine_tuning_has_a_plan_of_memory_and_time(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plan", str(config), "--set", "adapter=null"]) == 0
    said = capsys.readouterr().out
    for words in ("weights", "moments", "gradients", "layers keep", "tokens/s", "least memory", "all layers full"):
        assert words in said
    narrow, wide, eight, several = (
        api.plan(config, gpu="h200", overrides=["adapter=", *more]).parameters
        for more in ([], ["bf16=false"], ["optimizer=adamw_torch_8bit"], ["gradient_checkpointing=true"])
    )
    assert narrow is not None and wide is not None and eight is not None and several is not None
    assert narrow.weights * 2 == wide.weights == narrow.weights + narrow.masters
    assert wide.masters == 0 and eight.moments * 4 == narrow.moments == narrow.weights * 4
    assert narrow.gradients == narrow.weights  # both micro-batches go through at once
    assert several.gradients == 2 * narrow.gradients
    assert main.run(["plan", str(config), "--set", "adapter=null", "--gpu", "16MiB"]) == 2
    assert "adamw_8bit" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["fp16=true", "bf16=false"], ["optimizer=adafactor"]])
def test_full_fine_tuning_by_the_model_s_own_forward(
    config: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Products in another format than the weights."""
    plan = api.plan(config, gpu="h200", overrides=["adapter=", *more])
    assert plan.plan is None and plan.full is not None and plan.parameters is None
    plan.print()
    assert "with gradient checkpointing" in capsys.readouterr().out


def test_dropout_is_warned_of(config: Path) -> None:
    assert any("lora_dropout" in note for note in api.plan(config, overrides=["lora_dropout=0.1"]).notes)


@pytest.mark.parametrize(("option", "value"), [("--gpu", "h2000"), ("--max-memory", "much"), ("--max-memory", "16")])
def test_sizes_that_are_none(config: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plan", str(config), option, value]) == 2
    assert value in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 * 2**30),
        ("16 GB", 16 * 10**9),
        ("1.5gib", 3 * 2**29),
        ("800MiB", 800 * 2**20),
        (str(2**34), 2**34),
        ("16", None),
        ("-1GiB", None),
        ("GiB", None),
        ("16 GiBs", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


def test_sizes_as_people_read_them() -> None:
    assert (format_size(1.5 * 2**30), format_size(2**20 * 12)) == ("1.50 GiB", "12 MiB")


def test_the_key_max_memory() -> None:
    text = "base_model: starter\ndatasets: [{path: a.jsonl}]\nadapter: lora\nmax_memory: "
    assert parse_config(text + "16GiB").max_memory == "16GiB"
    assert parse_config(text + str(2**34)).max_memory == str(2**34)
    for bad in ("much", "{0: 16GiB}", "true", "16"):
        with pytest.raises(ConfigError, match="a size such as 16GiB"):
            parse_config(text + bad)
    noted = parse_config("base_model: starter\ndatasets: [{path: a.jsonl}]\nmax_memory: 1GiB").remarks
    assert any(remark.key == "max_memory" for remark in noted)


def test_a_missing_config(tmp_path: Path) -> None:
    with pytest.raises(WhetError, match="no such file"):
        api.plan(tmp_path / "none.yml")
