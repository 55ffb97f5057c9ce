"""A byte-level BPE tokenizer as GGUF's ``tokenizer.ggml.*`` metadata.

The tokenizer is taken as transformers loads it, not as ``tokenizer.json`` has it: for some families transformers 5 puts
the splitting rule of the family in the place of the file's, and that is what the model was trained with.

llama.cpp splits text by a named rule before it merges. The name is found from the tokenizer's own splitting steps;
a tokenizer whose steps have no name is refused, for it would be read differently.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoTokenizer

from whet.errors import ExportError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_TEKKEN = rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"

GPT2, DIGIT = "GPT-2's rule", "each digit apart"
# (splitting steps, whole words first = "ignore_merges") -> llama.cpp's name
PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGIT, GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says about the tokenizer. Ids are None where the tokenizer has no such token."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    eot_id: int | None
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_vocabulary(tokenizer_dir: Path | str, size: int, eot_token: str | None = None) -> Vocabulary:
    """Read a tokenizer folder.

    Args:
        size: rows of the embedding; ids that no token has become ``[PADn]`` of type UNUSED.
        eot_token: the token that ends a turn, where it is another one than the tokenizer's eos token.

    Raises:
        ExportError: no tokenizer there, another kind than byte-level BPE, more tokens than rows, or no eos token.
    """
    tokenizer, core = _load(Path(tokenizer_dir))
    tokens, types = _tokens(core, size, Path(tokenizer_dir))
    ids = {token: number for number, token in enumerate(tokens)}
    if tokenizer.eos_token not in ids:
        raise ExportError(f"the tokenizer in {tokenizer_dir} has no eos_token", "a token that ends the answer")
    bos, eos = ids.get(tokenizer.bos_token), ids[tokenizer.eos_token]
    eot = ids.get(eot_token) if eot_token else None
    around = tokenizer("a")["input_ids"]  # what it puts around a text by itself: asked, not parsed
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in core["model"]["merges"]],
        pre=pre_tokenizer_name(core),
        bos_id=bos,
        eos_id=eos,
        pad_id=ids.get(tokenizer.pad_token),
        eot_id=None if eot == eos else eot,
        add_bos=bos is not None and around[:1] == [bos],
        add_eos=around[-1:] == [eos],
        chat_template=_chat_template(tokenizer),
    )


def _chat_template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template  # several, by name


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


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, chat_template: str | None) -> None:
    """Write the metadata. ``chat_template`` is what goes into the file; empty or None writes none."""
    writer.add_tokenizer_model("gpt2")  # GGUF's name for byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    if vocabulary.pad_id is not None:
        writer.add_pad_token_id(vocabulary.pad_id)
    if vocabulary.eot_id is not None:
        writer.add_eot_token_id(vocabulary.eot_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if chat_template:
        writer.add_chat_template(chat_template)


def _load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and its parts in the form of a ``tokenizer.json``."""
    if not (folder / "tokenizer.json").is_file():
        raise ExportError(f"no tokenizer.json in {folder}", "the folder of a fast tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"the tokenizer in {folder} does not load: {error}", "a complete tokenizer") from error
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = core["model"].get("type")
    if kind != "BPE" or (core.get("decoder") or {}).get("type") != "ByteLevel":
        raise ExportError(
            f"the tokenizer in {folder} is {kind}, and not byte-level",
            "byte-level BPE (as in Llama 3, Qwen, SmolLM and the starter)",
            "export the model as merged safetensors instead",
        )
    return tokenizer, core


def _tokens(core: dict[str, Any], size: int, folder: Path) -> tuple[list[str], list[int]]:
    named = {number: token for token, number in core["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in core.get("added_tokens") or []}
    highest = max([*named, *added])
    if highest >= size:
        raise ExportError(
            f"the tokenizer in {folder} has token {highest}, the model only {size} rows",
            "a tokenizer that belongs to the model",
        )
    tokens, types = [], []
    for number in range(size):
        if number in added:
            tokens.append(added[number]["content"])
            types.append(gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED)
        elif number in named:
            tokens.append(named[number])
            types.append(gguf.TokenType.NORMAL)
        else:
            tokens.append(f"[PAD{number}]")
            types.append(gguf.TokenType.UNUSED)
    return tokens, types
