"""The model card: README.md with the front matter that the hub reads, written from what is known and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from whet.export.card_facts import CardFacts
from whet.models.names import STARTER

LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}


@dataclass(frozen=True)
class GgufFact:
    """One GGUF in a repository: its quantisation, its size in bytes, what its proof said ("" where there was none)."""

    quant: str
    bytes: int
    proof: str


def model_card(facts: CardFacts, repo: str, kind: str, ggufs: Sequence[GgufFact] = ()) -> str:
    """README.md for a repository.

    Args:
        repo: ``owner/name``.
        kind: "adapter", "merged" or "gguf": what the repository holds.
    """
    parts = [
        _front_matter(facts, kind),
        f"# {repo.rpartition('/')[2]}",
        _about(facts, kind),
        _prompt(facts),
        "## Use it\n\n" + _use(facts, repo, kind, ggufs),
        _files(ggufs),
        _section("Data", [f"- {_plain(line)}" for line in facts.data]),
        _table("Training", facts.training),
        _table("Results", facts.results),
        f"Made with whet.{_licence_note(facts)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(facts: CardFacts, kind: str) -> str:
    fields: dict[str, Any] = {"library_name": LIBRARY[kind], "pipeline_tag": "text-generation"}
    if facts.on_hub:
        fields |= {"base_model": facts.base, "base_model_relation": RELATION[kind]}
    if facts.licence:
        known = re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", facts.licence)
        fields |= {"license": facts.licence} if known else {"license": "other", "license_name": _slug(facts.licence)}
    fields["tags"] = [*facts.tags, *(["gguf", "ollama"] if kind == "gguf" else [])]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _about(facts: CardFacts, kind: str) -> str:
    what = {"adapter": "A LoRA adapter", "merged": "A language model", "gguf": "A language model as GGUF"}[kind]
    base = (
        f"`{facts.base}`" if facts.base and not facts.on_hub else f"[{facts.base}](https://huggingface.co/{facts.base})"
    )
    if facts.base == STARTER:
        base = "the starter model that comes with whet"
    lines = [what + (f", made from {base}" if facts.base else "") + (f" by {facts.method}." if facts.method else ".")]
    if facts.base and not facts.on_hub and facts.base != STARTER:
        lines.append(
            f"The base is a model of its author's own, called `{facts.base}` there; it is not in this repository."
        )
    return " ".join(lines)


def _prompt(facts: CardFacts) -> str:
    if not facts.prompt:
        return ""
    ends = f"\n\nAn answer ends at {' or '.join(f'`{stop}`' for stop in facts.stops)}." if facts.stops else ""
    return (
        f"## Prompt format\n\nOne turn, exactly as the model was trained to read it:\n\n{_fenced(facts.prompt)}{ends}"
    )


def _use(facts: CardFacts, repo: str, kind: str, ggufs: Sequence[GgufFact]) -> str:
    if kind == "gguf":
        tag = f":{ggufs[0].quant.upper()}" if ggufs else ""
        return (
            f"With [Ollama](https://ollama.com):\n\n{_fenced(f'ollama run hf.co/{repo}{tag}', 'sh')}\n\n"
            "Or with the files of this repository, which hold the same template and settings:\n\n"
            + _fenced(
                f"hf download {repo} --local-dir model\nollama create my-model -f model/Modelfile\nollama run my-model",
                "sh",
            )
        )
    return _fenced("\n".join([*_loading(facts, repo, kind), *_asking(facts)]), "python")


def _loading(facts: CardFacts, repo: str, kind: str) -> list[str]:
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{repo}")'
    load = "AutoModelForCausalLM.from_pretrained"
    if kind == "merged":
        imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
        return [*imports, tokenizer, f'model = {load}("{repo}")']
    if facts.on_hub:
        imports = ["from peft import AutoPeftModelForCausalLM", "from transformers import AutoTokenizer", ""]
        return [*imports, tokenizer, f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}")']
    imports = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if facts.base == STARTER:
        imports, base = [*imports, "import whet"], f"{load}(whet.starter_path())"
    else:
        base = f'{load}("{facts.base or "the base model"}")  # the folder of the base model'
    return [*imports, "", tokenizer, f"base = {base}", f'model = PeftModel.from_pretrained(base, "{repo}")']


def _asking(facts: CardFacts) -> list[str]:
    if facts.prompt:
        ask = 'messages = [{"role": "user", "content": "..."}]'
        options = 'add_generation_prompt=True, return_tensors="pt", return_dict=True'
        ask += f"\ninputs = tokenizer.apply_chat_template(messages, {options})"
    else:
        ask = 'inputs = tokenizer("...", return_tensors="pt")'
    answer = 'print(tokenizer.decode(output[0][inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
    return [ask, "output = model.generate(**inputs, max_new_tokens=256)", answer]


def _files(ggufs: Sequence[GgufFact]) -> str:
    rows = [f"| {fact.quant} | {fact.bytes / 1e6:,.1f} | {_plain(fact.proof or 'not compared')} |" for fact in ggufs]
    head = ["| quantisation | MB | compared with the trained model in llama.cpp |", "|---|---|---|"]
    return _section("Files", [*head, *rows] if rows else [])


def _table(title: str, figures: Mapping[str, str]) -> str:
    rows = [f"| {_plain(name)} | {_plain(value)} |" for name, value in figures.items()]
    return _section(title, ["| | |", "|---|---|", *rows] if rows else [])


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) if lines else ""


def _licence_note(facts: CardFacts) -> str:
    return f" Licence: {_plain(facts.licence)}." if facts.licence else ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())[:60].strip("-") or "custom"


def _plain(text: str) -> str:
    """A text that stays in its line and its cell, and starts no markup."""
    line = " ".join(text.split())
    return re.sub(r"([\\`|<>\[\]*_#])", r"\\\1", line)


def _fenced(text: str, language: str = "") -> str:
    """A code block that no content can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
