"""Which template a run teaches: the tokenizer's, the frame of its rows, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import question
from transformers import AutoTokenizer

from whet import console
from whet.data.records import ChatRecord, PairRecord, TextRecord
from whet.text.template import bundled
from whet.train.template import choose_template, settle_template

TALK = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Four."}]
ROWS = [question(a, b) for a in range(6) for b in range(5)]


@pytest.fixture
def tokenizer(tiny_llama_dir: Path) -> Any:
    console.forget_notices()
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def prompt_of(tokenizer: Any, content: str) -> str:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )


def test_conversations_are_in_the_tokenizers_template(tokenizer: Any) -> None:
    before = tokenizer.chat_template
    assert settle_template(tokenizer, [ChatRecord(TALK)]) == "tokenizer"
    assert tokenizer.chat_template == before


def test_texts_rendered_with_the_template_are_in_it(tokenizer: Any) -> None:
    before = tokenizer.chat_template
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}],
            tokenize=False,
        )
        for row in ROWS
    ]
    assert settle_template(tokenizer, [TextRecord(text) for text in texts]) == "tokenizer"
    assert tokenizer.chat_template == before


@pytest.mark.parametrize("end", ["", "<|im_end|>", "<|im_end|>\n"])
def test_texts_with_a_frame_of_their_own(tokenizer: Any, end: str, capsys: pytest.CaptureFixture[str]) -> None:
    records = [TextRecord(row["prompt"] + row["completion"] + end) for row in ROWS]
    assert settle_template(tokenizer, records) == "frame"
    assert prompt_of(tokenizer, "two and four?") == "Question: two and four?\nAnswer:\n"
    assert "note: chat template: the frame of your rows" in capsys.readouterr().err


def test_pairs_with_a_frame_of_their_own(tokenizer: Any) -> None:
    records = [PairRecord(row["prompt"], row["completion"]) for row in ROWS]
    assert settle_template(tokenizer, records) == "frame"
    assert prompt_of(tokenizer, "two and four?") == "Question: two and four?\nAnswer:\n"


def test_rows_without_a_frame_leave_no_template(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        "The quick brown fox.",
        "SELECT count(*) FROM orders",
        "Numbers 0 1 2 3",
        "def main(argv):",
        "Was kostet das?",
    ]
    assert settle_template(tokenizer, [TextRecord(text) for text in texts]) == "unknown"
    assert tokenizer.chat_template is None
    assert "warning: chat template: none" in capsys.readouterr().err


def test_a_template_that_the_config_names(tokenizer: Any) -> None:
    own = tokenizer.chat_template
    choose_template(tokenizer, "tokenizer_default", None)
    assert tokenizer.chat_template == own
    choose_template(tokenizer, "chatml", None)
    assert tokenizer.chat_template == bundled("chatml").jinja()
    choose_template(tokenizer, "jinja", "{{ messages[0].content }}")
    assert prompt_of(tokenizer, "x") == "x"
