"""Which of llama.cpp's named rules splits text as a byte-level BPE tokenizer does.

llama.cpp splits text by a named rule before it merges. The name is found from the tokenizer's own splitting steps; a
tokenizer whose steps have no name is refused, for it would be read differently.
"""

from __future__ import annotations

import json
from typing import Any

from whet.errors import ExportError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_TEKKEN = rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O_WORDS = "|".join(f"{part}{_CONTRACTIONS}?" for part in _WORDS.split("|"))
_GPT4O = rf"{_GPT4O_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"

GPT2, DIGIT = "GPT-2's rule", "each digit apart"
# (splitting steps, whole words first = "ignore_merges") -> llama.cpp's name
PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGIT, GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
}


def pre_tokenizer_name(core: dict[str, Any]) -> str:
    """llama.cpp's name for the splitting steps of a ``tokenizer.json``.

    Raises:
        ExportError: steps without a name in llama.cpp.
    """
    steps = _steps(core.get("pre_tokenizer") or {"type": "none"})
    key = (steps, bool(core["model"].get("ignore_merges")))
    if key not in PRE_TOKENIZERS:
        raise ExportError(
            f"the tokenizer splits text by rules that have no name in llama.cpp: {list(steps)}",
            f"the rules of one of {', '.join(sorted(PRE_TOKENIZERS.values()))}",
            "export the model as merged safetensors instead",
        )
    return PRE_TOKENIZERS[key]


def _steps(pre: dict[str, Any]) -> tuple[str, ...]:
    kind = pre["type"]
    if kind == "Sequence":
        return tuple(step for part in pre["pretokenizers"] for step in _steps(part))
    if kind == "ByteLevel" and not pre.get("add_prefix_space"):
        return (GPT2,) if pre.get("use_regex", True) else ()
    if kind == "Split" and "Regex" in pre["pattern"] and not pre.get("invert"):
        return (pre["pattern"]["Regex"],)
    if kind == "Digits" and pre.get("individual_digits"):
        return (DIGIT,)
    return (json.dumps(pre, sort_keys=True),)
