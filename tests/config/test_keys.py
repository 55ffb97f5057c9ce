"""What a config can do once it is read: back to YAML, paths, flat fields for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.config import load_config, parse_config

FULL = """
base_model: org/model
adapter: lora
lora_target_modules: [q_proj, v_proj]
special_tokens: {pad_token: "<|pad|>"}
learning_rate: 5e-5
val_set_size: 0.1
evals_per_epoch: 2
bf16: false
wandb_name: "2024-01-01"
mlflow_run_name: "on"
datasets:
  - path: a.jsonl
    split: train[:50]
    type:
      field_instruction: question
      field_input: context
      field_output: answer
      format: "Tables: {input}\\nQuestion: {instruction}\\nSQL: "
  - path: b.json
    type: chat_template
    message_property_mappings: {role: from, content: value}
    roles: {assistant: [bot]}
"""


def test_to_yaml_reads_back_as_the_same_config(tmp_path: Path) -> None:
    config = parse_config(FULL)
    (tmp_path / "config.yml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "config.yml").model_dump() == config.model_dump()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1).filter(lambda text: text.isprintable() or "\n" in text), rate=st.floats(1e-12, 1e3))
def test_any_text_and_number_survive_the_round_trip(text: str, rate: float) -> None:
    config = parse_config(FULL)
    config.datasets[0].path = config.output_dir = text
    config.learning_rate = rate
    again = parse_config(config.to_yaml())
    assert (again.datasets[0].path, again.output_dir, again.learning_rate) == (text, text, rate)


def test_paths_from_the_working_directory_then_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "both.jsonl").write_text("{}")
    (there / "beside.jsonl").write_text("{}")
    (there / "c.yml").write_text("base_model: starter\ndatasets: [{path: beside.jsonl}, {path: org/name}]")
    monkeypatch.chdir(here)
    config = load_config(there / "c.yml")
    assert config.source == there / "c.yml"
    assert config.resolve_path("both.jsonl") == Path("both.jsonl")
    assert config.resolve_path("beside.jsonl") == there / "beside.jsonl"
    assert config.resolve_path("org/name") == Path("org/name")
    written = parse_config(config.to_yaml(absolute=True))
    assert [entry.path for entry in written.datasets] == [str(there / "beside.jsonl"), "org/name"]


def test_chat_template_jinja_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    (tmp_path / "c.yml").write_text("base_model: x\ndatasets: [{path: a}]\nchat_template_jinja: t.jinja")
    assert load_config(tmp_path / "c.yml").chat_template_text() == "{{ messages }}"
    assert parse_config("base_model: x\ndatasets: [{path: a}]").chat_template_text() is None


def test_flat_fields_for_the_formats() -> None:
    own, chat = (entry.format_fields() for entry in parse_config(FULL).datasets)
    assert own["kind"] == "mapping" and own["field_input"] == "context" and own["system_prompt"] == ""
    assert (chat["kind"], chat["field_role"], chat["field_content"]) == ("chat_template", "from", "value")
    assert chat["roles"] == {"assistant": ["bot"]}


def test_flat_fields_of_messages_and_sources() -> None:
    text = """
base_model: x
datasets:
  - path: a.csv
    type: sharegpt
    message_property_mappings: {content: value, tool_calls: calls, train: keep}
    message_field_role: from
    field_thinking: thought
    field_tools: functions
    roles_to_train: [assistant, tool]
    weight: 2
    delimiter: tab
    encoding: cp1252
    damaged: skip
"""
    entry = parse_config(text).datasets[0]
    fields, source = entry.format_fields(), entry.source_fields()
    assert (fields["field_role"], fields["field_content"]) == ("from", "value")
    assert fields["properties"] == {"tool_calls": "calls", "train": "keep"}
    assert (fields["field_thinking"], fields["field_tools"]) == ("thought", "functions")
    assert fields["roles_to_train"] == ["assistant", "tool"] and entry.weight == 2.0
    assert (source["delimiter"], source["encoding"], source["damaged"]) == ("\t", "cp1252", "skip")
    assert (source["file_type"], source["split"], source["streaming"]) == (None, "train", False)


def test_merge_keys_and_anchors() -> None:
    text = "base_model: x\ndatasets:\n  - &one {path: a, type: alpaca}\n  - <<: *one\n    path: b\n"
    first, second = parse_config(text).datasets
    assert (first.path, second.path, second.type) == ("a", "b", "alpaca")
