"""Continued pretraining: raw text, packed, every token trained, an end token between documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import metrics_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import whet
from whet import api, console
from whet.config import parse_config
from whet.data.loader import PackedDataset
from whet.data.run_rows import prepare_rows
from whet.errors import ConfigError
from whet.text.encode import IGNORE

TEXTS = [f"Chapter {n}.\n\n" + " ".join(f"word{n}x{i}" for i in range(7 * n + 3)) for n in range(6)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


def config_of(folder: Path, model: Path) -> Any:
    entry = f"{{path: {folder}, type: completion, sample_by: document}}"
    return parse_config(f"base_model: {model}\nsequence_len: 64\ndatasets:\n  - {entry}\n")


def test_every_token_is_trained_once_and_documents_end(texts: Path, tiny_llama_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    rows = prepare_rows(config_of(texts, tiny_llama_dir), tokenizer, 64).train
    expected = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in TEXTS]
    assert max(map(len, expected)) > 3 * 64  # some are split
    trained = [token for n in range(len(rows)) for token in rows.row(n)[1].tolist() if token != IGNORE]
    assert trained == [token for ids in expected for token in ids[1:]]
    packed = PackedDataset(rows, 64)
    assert packed.fill_ratio > 0.8 and max(packed.documents_per_bin) > 1
    for item in packed:
        first = item["position_ids"] == 0
        assert (item["labels"][first] == IGNORE).all() and (item["labels"][~first] != IGNORE).all()


@pytest.mark.parametrize(("unit", "rows"), [("document", 6), ("paragraph", 12), ("line", 12)])
def test_what_a_row_of_plain_text_is(texts: Path, tiny_llama_dir: Path, unit: str, rows: int) -> None:
    text = f"base_model: {tiny_llama_dir}\nsequence_len: 512\ndatasets:\n  - {{path: {texts}, sample_by: {unit}}}\n"
    found = prepare_rows(parse_config(text), AutoTokenizer.from_pretrained(tiny_llama_dir), 512).train
    assert len(found) == rows


def test_a_run_from_yaml(
    texts: Path, write_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.forget_notices()
    entry = {"path": str(texts), "sample_by": "document"}
    run = api.train(write_config(tmp_path, datasets=None, pretraining_dataset=[entry], max_steps=8, sequence_len=64))
    losses = [line["loss"] for line in metrics_of(run) if "loss" in line]
    assert losses[-1] < losses[0]
    said = capsys.readouterr().err
    assert "cut at sequence_len" in said and "the base model's own stays" in said
    assert AutoTokenizer.from_pretrained(run / "adapter").chat_template  # what the base knew of chats is kept


def test_pretraining_dataset_is_read_as_datasets() -> None:
    config = parse_config(
        "base_model: starter\npretraining_dataset:\n  - {path: a, name: b, text_column: body}\nmax_steps: 9\n"
    )
    entry = config.datasets[0]
    assert (entry.path, entry.name, entry.field, entry.type) == ("a", "b", "body", "pretrain")
    assert config.long_rows == "split" and config.raw_text
    assert parse_config("base_model: starter\npretraining_dataset: some/texts\n").datasets[0].path == "some/texts"
    with pytest.raises(ConfigError, match=r"config:3(.|\n)*did you mean \"split\""):
        parse_config("base_model: starter\npretraining_dataset:\n  - {path: a, splt: b}\n")
    with pytest.raises(ConfigError, match="both set"):
        parse_config("base_model: starter\npretraining_dataset: a\ndatasets: [{path: b}]\n")


def test_long_rows_are_dropped_where_they_are_no_documents() -> None:
    assert parse_config("base_model: starter\ndatasets: [{path: a}]").long_rows == "drop"
    mixed = "base_model: starter\ndatasets: [{path: a, type: completion}, {path: b, type: alpaca}]"
    assert parse_config(mixed).long_rows == "drop"
    kept = "base_model: starter\nexcess_length_strategy: drop\ndatasets: [{path: a, type: completion}]"
    assert parse_config(kept).long_rows == "drop"


def test_a_run_from_a_notebook(tiny_llama_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    args = whet.SFTConfig(
        output_dir=str(tmp_path), max_length=64, packing=True, excess_length_strategy="split", max_steps=6,
        per_device_train_batch_size=2, learning_rate=1e-3, logging_steps=1, save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = whet.SFTTrainer(model, tokenizer, args=args, train_dataset=[{"text": text} for text in TEXTS])
    assert trainer.prepared.stats.trained_tokens == sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] and tokenizer.chat_template
