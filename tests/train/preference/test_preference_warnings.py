"""What a preference run warns of, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_pairs import pair
from transformers import AutoTokenizer

from whet import console
from whet.config import parse_config
from whet.train.preference.run import metrics_lines, preference_rows, report, run_preference, warn_near_zero

MINIMAL = "base_model: starter\nadapter: lora\ndatasets:\n  - path: rows.jsonl\n"


@pytest.fixture(autouse=True)
def _said_again() -> Iterator[None]:
    console.forget_notices()
    yield
    console.forget_notices()


def rows(count: int, change: Callable[[int, dict[str, Any]], None] = lambda n, row: None) -> list[dict[str, Any]]:
    found = []
    for n in range(count):
        record = pair(n)
        row = {"messages": record.prompt, "chosen": record.chosen[0], "rejected": record.rejected[0]}
        change(n, row)
        found.append(row)
    return found


@pytest.fixture
def said(tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``said(rows, template=..., limit=...)``: what the report of these rows says."""

    def say(found: list[dict[str, Any]], template: str | None = None, limit: int = 128) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        config = parse_config(f"base_model: {tiny_llama_dir}\nrl: dpo\nadapter: lora\ndatasets: [{{path: {path}}}]\n")
        tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
        tokenizer.chat_template = template or tokenizer.chat_template
        report(preference_rows(config, tokenizer, limit))
        return capsys.readouterr().err

    return say


def test_few_pairs(said: Callable[..., str]) -> None:
    assert "warning: 12 pairs are few (usual are 500 and more)" in said(rows(12))


def test_many_pairs_are_not_few(said: Callable[..., str]) -> None:
    text = said(rows(500))
    assert "are few" not in text and "warning" not in text


def test_long_texts(said: Callable[..., str]) -> None:
    def longer(n: int, row: dict[str, Any]) -> None:
        row["chosen"]["content"] += " and so on" * (60 if n % 4 == 0 else 0)

    assert "3 pairs are longer than sequence_len: raise it" in said(rows(12, longer))


def test_equal_answers(said: Callable[..., str]) -> None:
    def equal(n: int, row: dict[str, Any]) -> None:
        if n % 3 == 0:
            row["rejected"] = row["chosen"]

    assert "in 4 rows both answers are the same, and they teach nothing" in said(rows(12, equal))


def test_prompts_written_in_two_ways(said: Callable[..., str]) -> None:
    """A template that looks at what follows: it notes the length of the answer before the question."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'user' %}{{ messages[-1]['content'] | length }} letters: {% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    text = said(rows(12), template)
    assert "pairs write their prompt in two ways" in text, text
    console.forget_notices()
    assert "two ways" not in said(rows(12))


def test_a_loss_near_zero(capsys: pytest.CaptureFixture[str]) -> None:
    warn_near_zero(0.4, "a higher rl_beta")
    assert capsys.readouterr().err == ""
    warn_near_zero(0.004, "a higher rl_beta")
    assert "the mean loss is 0.004: the pairs were learned by heart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("rl: dpo\nlearning_rate: 2e-3", "learning_rate 0.002 is high for dpo with an adapter"),
        ("rl: orpo\nlearning_rate: 1e-9", "learning_rate 1e-09 is low for orpo with an adapter"),
        ("reward_model: true\nlearning_rate: 1e-2", "is high for reward model with an adapter"),
        ("rl: kto\nmicro_batch_size: 1\ngradient_accumulation_steps: 1", "each step follows one row"),
        ("reward_model: true\nmicro_batch_size: 1\ngradient_accumulation_steps: 1", "each step follows one row"),
    ],
)
def test_settings(lines: str, words: str) -> None:
    assert any(words in remark.text for remark in parse_config(MINIMAL + lines).remarks)


def test_a_runs_own_rows_are_looked_at(
    write_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of the end, and a warning where the model does not prefer what it was trained on."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(12)))
    keys = {"rl": "dpo", "datasets": [{"path": str(path)}], "adapter": None, "micro_batch_size": 6, "bf16": False}
    from whet.config import load_config

    result = run_preference(load_config(write_config(tmp_path, **keys, max_steps=12)))
    end = metrics_lines(result.folder)[-1]
    own = json.loads((result.folder / "manifest.json").read_text())["trained_rows"]
    assert own["trained_rewards/margins"] == end["trained_rewards/margins"] > 0
    assert "trained rows: its own pairs are told apart in 100%" in capsys.readouterr().err
    result = run_preference(load_config(write_config(tmp_path, **keys, max_steps=1, learning_rate=1e-30)))
    assert "does not prefer the chosen answers of the rows" in capsys.readouterr().err
