"""The model card: front matter that the hub reads, only what is known, and no text that breaks out of its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from whet.export.card import GgufFact, model_card
from whet.export.card_facts import CardFacts, facts_of_run, public_name
from whet.models.names import starter_folder

KINDS = ("adapter", "merged", "gguf")


def front_matter(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def code(card: str) -> list[str]:
    """The Python of a card."""
    return re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_hub_reads(kind: str) -> None:
    facts = CardFacts(base="owner/base", on_hub=True, licence="apache-2.0", tags=("whet", "lora", "sft"))
    found = front_matter(model_card(facts, "me/model", kind))
    assert found["base_model"] == "owner/base"
    assert found["library_name"] == {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[kind]
    assert found["base_model_relation"] == {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[kind]
    assert found["license"] == "apache-2.0"
    assert found["pipeline_tag"] == "text-generation"
    assert {"whet", "lora", "sft"} <= set(found["tags"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_that_is_not_known(kind: str) -> None:
    card = model_card(CardFacts(), "me/model", kind)
    assert set(front_matter(card)) == {"library_name", "pipeline_tag", "tags"}
    for word in ("None", "Licence", "## Data", "## Training", "## Results", "## Prompt"):
        assert word not in card


@pytest.mark.parametrize("base", [("owner/base", True), ("starter", False), ("my-base", False)])
@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_its_python_is_python_and_loads_this_repository(kind: str, base: tuple[str, bool]) -> None:
    card = model_card(CardFacts(base=base[0], on_hub=base[1], prompt="<s>hi</s>"), "me/model", kind)
    [program] = code(card)
    compile(program, "card", "exec")
    assert '"me/model"' in program
    assert ("starter_path" in program) == (base[0] == "starter" and kind == "adapter")
    assert ("owner/base" in front_matter(card).get("base_model", "")) == base[1]


def test_a_licence_that_is_no_identifier() -> None:
    found = front_matter(model_card(CardFacts(licence="Llama 3.2 Community License: use it"), "me/m", "merged"))
    assert (found["license"], found["license_name"]) == ("other", "llama-3.2-community-license-use-it")


def test_awkward_texts_stay_in_their_place() -> None:
    facts = CardFacts(
        base="b`a|se",
        licence='a: "b"\n- c',
        method="x",
        data=("rows|<script>alert(1)</script>.jsonl", "# two\nlines"),
        training={"a|b": "c\n| d | e |"},
        results={"loss": "1.0"},
        prompt="```\n# not a heading\n````\n",
        stops=("<|end|>",),
    )
    card = model_card(facts, "me/m", "merged", [GgufFact("q8_0", 1_000_000, "a|b")])
    assert "<script>" not in card
    assert front_matter(card)["license"] == "other"
    assert "\n# two" not in card and "\n| d" not in card
    fences = re.findall(r"^`{5,}$", card, re.MULTILINE)
    assert len(fences) == 2 and len(set(fences)) == 1
    for line in card.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4)


def test_a_run_is_told_without_its_paths(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base = tmp_path / "secret-project" / "my-base"
    base.parent.mkdir()
    base.symlink_to(tiny_llama_dir)
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    adapter = {"base_model_name_or_path": str(base), "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]}
    (run / "adapter/adapter_config.json").write_text(json.dumps(adapter))
    config = {
        "base_model": str(base),
        "adapter": "qlora",
        "datasets": [{"path": str(tmp_path / "rows.jsonl")}, {"path": "owner/data"}],
        "learning_rate": 2e-4,
        "num_epochs": 2,
        "output_dir": str(run),
    }
    (run / "config.yml").write_text(yaml.safe_dump(config))
    counted = {"rows": 1200, "tokens": 34567, "trained_tokens": 8901}
    manifest = {"data": counted, "steps": 70, "interrupted": True, "train_loss": 0.51234, "versions": {"whet": "0.1.0"}}
    (run / "manifest.json").write_text(json.dumps(manifest, indent=2))
    (run / "metrics.jsonl").write_text('{"loss": 1.0}\n{"eval_loss": 0.9}\n{"eval_loss": 0.75}\n{"eval_lo')
    figures = {"accuracy_before": 0.0, "accuracy_after": 0.92, "accuracy_after_interval": [0.89, 0.95], "n_eval": 300}
    (run / "summary.json").write_text(json.dumps(figures))
    facts = facts_of_run(str(run))
    card = model_card(facts, "me/m", "adapter")
    assert str(tmp_path) not in card and "secret-project" not in card
    assert facts.method == "supervised fine-tuning with QLoRA (rank 8, alpha 16) on q_proj, v_proj"
    assert facts.data[0] == "rows.jsonl (a file that is not published)"
    assert facts.data[1] == "owner/data (on the hub)"
    assert facts.data[2] == "1,200 rows, 34,567 tokens, 8,901 of them trained"
    assert facts.training["steps done"] == "70 (stopped early)"
    assert "0.750" in card and "92.0% (95% interval 89.0% to 95.0%)" in card
    assert facts.licence is None
    assert facts_of_run(str(run), licence="mit").licence == "mit"


def test_public_names(tmp_path: Path) -> None:
    assert public_name("owner/base") == ("owner/base", True)
    assert public_name("starter") == ("starter", False)
    assert public_name(str(starter_folder())) == ("starter", False)
    assert public_name(str(tmp_path)) == (tmp_path.name, False)
    assert public_name("/gone/away/base") == ("base", False)
    assert public_name("./base") == ("base", False)
    assert public_name("a/b/c") == ("c", False)
