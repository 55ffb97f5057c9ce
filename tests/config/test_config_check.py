"""``whet config check``: every problem of every file with line and column, before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from json_schema import problems

from whet.cli import main
from whet.config import parse_config
from whet.config.check import check_files

GOOD = "base_model: starter\ndatasets:\n  - path: org/rows\n"
BAD = """base_model: starter
lora_r: many
datasets:
  - path: org/rows
    tpye: alpaca
deepspeed: zero2.json
saves_per_epoch: 2
save_steps: 10
"""


def found(tmp_path: Path, text: str) -> list[tuple[int, int, str, str]]:
    file = tmp_path / "c.yml"
    file.write_text(text, encoding="utf-8")
    return [(item.place.line, item.place.column, item.level, item.given) for item in check_files([file])[0].findings]


def test_every_problem_with_line_and_column(tmp_path: Path) -> None:
    places = [item[:3] for item in found(tmp_path, BAD)]
    assert places == [(2, 1, "error"), (5, 5, "error"), (6, 1, "error"), (8, 1, "error")]


def test_warnings_stand_beside_errors_but_not_about_keys_that_are_wrong(tmp_path: Path) -> None:
    large = GOOD.replace("starter", "org/model")
    levels = [item[:3] for item in found(tmp_path, large + "adapter: lora\nlearning_rate: 0.5\nseed: x\n")]
    assert levels == [(5, 1, "warning"), (6, 1, "error")]
    text = large + "adapter: lroa\nlearning_rate: 1e-3\n"
    assert [item[:3] for item in found(tmp_path, text)] == [(4, 1, "error")]
    assert [item[:3] for item in found(tmp_path, text.replace("lroa", "lora\ndeepspeed: x") + "lora_r: 999\n")] == [
        (5, 1, "error"),
        (7, 1, "warning"),
    ]


def test_a_contradiction_with_a_wrong_key_is_not_made_up(tmp_path: Path) -> None:
    assert [item[0] for item in found(tmp_path, GOOD + "evals_per_epoch: 2\nval_set_size: much\n")] == [5]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1, 2\n", (2, 1)),
        ("base_model: x\nb: 1\n  c: 2\n", (3, 4)),
        ("a: 1\nb: 2\na: 3\n", (3, 1)),
        ("- a\n", (1, 1)),
    ],
)
def test_broken_yaml_has_a_place_too(tmp_path: Path, text: str, place: tuple[int, int]) -> None:
    assert [item[:3] for item in found(tmp_path, text)] == [(*place, "error")]


def test_all_files_are_checked_and_the_exit_code_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in {"good.yml": GOOD, "bad.yml": BAD}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    names = [str(tmp_path / name) for name in ("bad.yml", "none.yml", "good.yml")]
    assert main.run(["config", "check", *names]) == 2
    out = capsys.readouterr().out
    assert f"{names[0]}:2:1: error: lora_r is " in out and 'did you mean "type"?' in out
    assert f"{names[1]}: error: no such file" in out and 'did you mean "bad.yml"?' not in out
    assert f"{names[2]}: ok" in out and out.endswith("3 files, 5 errors, 0 warnings\n")
    assert main.run(["config", "check", names[2]]) == 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("adapter: lora\nlearning_rate: 0.1", "is high for training with an adapter"),
        ("adapter: lora\nlearning_rate: 1e-9", "is low for training with an adapter"),
        ("learning_rate: 1e-3", "is high for full fine-tuning"),
        ("adapter: lora\nnum_epochs: 30", "by heart"),
        ("adapter: lora\nwarmup_steps: 20\nmax_steps: 10", "training ends before"),
        (
            "adapter: lora\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\nsample_packing: false",
            "the loss is noisy",
        ),
        ("adapter: lora\nlora_alpha: 512", "scaled by 32"),
        ("adapter: lora\nlora_r: 1024\nlora_alpha: 1024", "takes much memory"),
        ("adapter: lora\nlora_dropout: 0.9", "is high"),
        ("adapter: lora\nval_set_size: 0.7", "kept from training"),
        ("adapter: lora\nweight_decay: 2", "is high"),
        ("learning_rate: 1e-5\nlora_r: 8", "full fine-tuning, and lora_r have no effect"),
        ("adapter: lora\ntest_datasets: [{path: ./nothing.jsonl}]", "is not here"),
    ],
)
def test_unusual_values_are_warned_about_and_obeyed(tmp_path: Path, lines: str, words: str) -> None:
    text = GOOD.replace("starter", "org/model") + lines
    warnings = [item for item in found(tmp_path, text) if item[2] == "warning"]
    assert len(warnings) == 1 and words in warnings[0][3]
    parse_config(text)


def test_usual_values_pass_in_silence(tmp_path: Path) -> None:
    assert found(tmp_path, GOOD + "adapter: lora\nlearning_rate: 2e-4\n") == []
    assert found(tmp_path, GOOD + "learning_rate: 1e-5\n") == []


def test_nothing_heavy_is_loaded_and_the_schema_is_printed() -> None:
    code = "import sys; from whet.cli.main import run; run(['config', 'schema']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    schema = json.loads(done.stdout)
    assert problems({"base_model": "x", "datasets": [{"path": "a"}]}, schema, schema) == []
    assert {"torch", "transformers", "datasets"} & set(done.stderr.split()) == set()


def test_explain_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config", "explain", "lora_r"]) == 0
    assert capsys.readouterr().out.startswith("lora_r\n  meaning")
    assert main.run(["config", "explain", "lora_rr"]) == 2
    assert "did you mean lora_r" in capsys.readouterr().err
