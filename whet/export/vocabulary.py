"""A tokenizer as GGUF's ``tokenizer.ggml.*`` metadata: byte-level BPE, or SentencePiece.

The tokenizer is taken as transformers loads it, not as ``tokenizer.json`` has it: for some families transformers 5 puts
the splitting rule of the family in the place of the file's, and that is what the model was trained with.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from jinja2 import TemplateError
from transformers import AutoTokenizer

from whet.console import warn
from whet.errors import ExportError
from whet.export.pretokenizers import pre_tokenizer_name
from whet.export.sentencepiece import is_byte, is_sentencepiece, joined_differently, scores, space_prefix
from whet.text.jinja import printed

_PHI3_KEEP = {"<unk>", "<s>", "<|endoftext|>"}  # the tokens of Phi-3 after which white space stays
Core = dict[str, Any]
"""The parts of a tokenizer in the form of a ``tokenizer.json``."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says about the tokenizer. Ids are None where the tokenizer has no such token.

    Attributes:
        merges: of byte-level BPE; None for SentencePiece, which has ``scores``.
        pre: llama.cpp's name of the rule that splits text.
        space_prefix: whether llama.cpp puts a space before each piece of text; None where there is no such rule.
        lead: what a prompt must begin with in llama.cpp to be read as the tokenizer reads it without: "" or a space.
        strips: special tokens swallow the white space after them, as Phi-3's do.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str] | None
    scores: list[float] | None
    pre: str
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    unk_id: int | None
    eot_id: int | None
    add_bos: bool
    add_eos: bool
    space_prefix: bool | None
    lead: str
    strips: bool
    chat_template: str | None


def read_vocabulary(
    tokenizer_dir: Path | str, size: int, eot_token: str | None = None, chat_template: str | None = None
) -> Vocabulary:
    """Read a tokenizer folder.

    Args:
        size: rows of the embedding; ids that no token has become ``[PADn]`` of type UNUSED.
        eot_token: the token that ends a turn, where it is another one than the tokenizer's eos token.
        chat_template: the Jinja that prompts are made with; None takes the tokenizer's, "" none.

    Raises:
        ExportError: no tokenizer there, one that is neither byte-level BPE nor SentencePiece, more tokens than rows,
            or no eos token.
    """
    tokenizer, core = _load(Path(tokenizer_dir))
    tokens = _texts(core, size, Path(tokenizer_dir))
    ids = {token: number for number, token in enumerate(tokens)}
    if tokenizer.eos_token not in ids:
        raise ExportError(f"the tokenizer in {tokenizer_dir} has no eos_token", "a token that ends the answer")
    bos, eos, unk = ids.get(tokenizer.bos_token), ids[tokenizer.eos_token], ids.get(tokenizer.unk_token)
    eot = ids.get(eot_token) if eot_token else None
    around = tokenizer("a")["input_ids"]  # what it puts around a text by itself: asked, not parsed
    template = _chat_template(tokenizer) if chat_template is None else chat_template
    pieces = is_sentencepiece(core)
    prefix, lead = _space_and_lead(tokenizer, core, template) if pieces else (None, "")
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in core["model"]["merges"]]
    return Vocabulary(
        tokens=tokens,
        types=_types(core, tokens, unk, pieces),
        merges=None if pieces else [" ".join(pair) for pair in merges],
        scores=_scores(core, tokens, merges) if pieces else None,
        pre="default" if pieces else pre_tokenizer_name(core),
        bos_id=bos,
        eos_id=eos,
        pad_id=ids.get(tokenizer.pad_token),
        unk_id=unk if pieces else None,
        eot_id=None if eot == eos else eot,
        add_bos=bos is not None and around[:1] == [bos],
        add_eos=around[-1:] == [eos],
        space_prefix=prefix,
        lead=lead,
        strips=_strips(core),
        chat_template=template,
    )


def prompt_lead(tokenizer: Any, prompt: str) -> str:
    """What ``prompt`` must begin with in llama.cpp, which puts a space before each piece of text or before none.

    A tokenizer that does so at the very start only is written as one that never does, and a prompt that begins with
    text gets the space from its template.
    """
    backend = tokenizer.backend_tokenizer
    if not getattr(backend.model, "byte_fallback", False) or prompt.startswith(" "):
        return ""
    rules = {"normalizer": _state(backend.normalizer), "pre_tokenizer": _state(backend.pre_tokenizer)}
    if space_prefix(rules) != "first":
        return ""
    special = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    return "" if prompt.startswith(special) else " "


def _state(step: Any) -> Core | None:
    return None if step is None else json.loads(step.__getstate__())


def _space_and_lead(tokenizer: Any, core: Core, template: str | None) -> tuple[bool, str]:
    """llama.cpp's rule for spaces, and the lead of a prompt under it."""
    kind = space_prefix(core)
    if kind != "first":
        return kind == "always", ""
    if not template:
        return True, ""  # exact for a text without special tokens
    try:
        ask = [{"role": "user", "content": "a"}]
        prompt = tokenizer.apply_chat_template(ask, chat_template=template, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return False, ""
    return False, prompt_lead(tokenizer, prompt)


def _strips(core: Core) -> bool:
    """Whether white space goes as after Phi-3's special tokens; a word where it goes in a way llama.cpp has not."""
    added = {entry["content"]: entry for entry in core.get("added_tokens") or []}
    swallow = {text for text, entry in added.items() if entry.get("rstrip")}
    as_phi3 = bool(swallow) and swallow == added.keys() - _PHI3_KEEP and _PHI3_KEEP | {"</s>"} <= added.keys()
    if (swallow and not as_phi3) or any(entry.get("lstrip") for entry in added.values()):
        warn(
            "special tokens of this tokenizer swallow the white space around them, and llama.cpp has no way to say so: "
            "prompts may be read differently. The proof compares the tokens of its conversations"
        )
    return as_phi3


def _scores(core: Core, tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    differing = joined_differently(core["model"]["vocab"], merges)
    if differing:
        warn(
            f"llama.cpp joins {differing} of the tokenizer's tokens from other parts than the tokenizer does: a rare "
            "word may be split differently. The proof compares the tokens of its conversations"
        )
    return scores(tokens, merges)


def _chat_template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template  # several, by name


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write the metadata, the chat template with its lead among them."""
    writer.add_tokenizer_model("gpt2" if vocabulary.scores is None else "llama")  # GGUF's names for the two kinds
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    for number, add in (
        (vocabulary.bos_id, writer.add_bos_token_id),
        (vocabulary.eos_id, writer.add_eos_token_id),
        (vocabulary.pad_id, writer.add_pad_token_id),
        (vocabulary.unk_id, writer.add_unk_token_id),
        (vocabulary.eot_id, writer.add_eot_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.chat_template:
        writer.add_chat_template(printed(vocabulary.lead) + vocabulary.chat_template)


def _load(folder: Path) -> tuple[Any, Core]:
    if not (folder / "tokenizer.json").is_file():
        raise ExportError(f"no tokenizer.json in {folder}", "the folder of a fast tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"the tokenizer in {folder} does not load: {error}", "a complete tokenizer") from error
    core = _core(tokenizer)
    kind = core["model"].get("type")
    byte_level = kind == "BPE" and (core.get("decoder") or {}).get("type") == "ByteLevel"
    if not byte_level and not is_sentencepiece(core):
        raise ExportError(
            f"the tokenizer in {folder} is {kind}, and neither byte-level nor SentencePiece",
            "byte-level BPE (as in Llama 3, Qwen, SmolLM) or SentencePiece BPE (as in Llama 2, Mistral, Gemma, Phi-3)",
            "export the model as merged safetensors instead",
        )
    return tokenizer, core


def _core(tokenizer: Any) -> Core:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _texts(core: Core, size: int, folder: Path) -> list[str]:
    """The text of every row, ``[PADn]`` where the tokenizer has none."""
    named = {number: token for token, number in core["model"]["vocab"].items()}
    named |= {entry["id"]: entry["content"] for entry in core.get("added_tokens") or []}
    if max(named) >= size:
        raise ExportError(
            f"the tokenizer in {folder} has token {max(named)}, the model only {size} rows",
            "a tokenizer that belongs to the model",
        )
    tokens = [named.get(number, f"[PAD{number}]") for number in range(size)]
    text, count = Counter(tokens).most_common(1)[0]
    if count > 1:  # llama.cpp would end the whole process
        raise ExportError(f"the tokenizer in {folder} has {count} tokens with the text {text!r}", "each text once")
    return tokens


def _types(core: Core, tokens: list[str], unk: int | None, pieces: bool) -> list[int]:
    added = {entry["id"]: entry["special"] for entry in core.get("added_tokens") or []}
    vocabulary = core["model"]["vocab"]
    types = []
    for number, token in enumerate(tokens):
        if pieces and number == unk:
            types.append(gguf.TokenType.UNKNOWN)
        elif number in added:
            types.append(gguf.TokenType.CONTROL if added[number] else gguf.TokenType.USER_DEFINED)
        elif vocabulary.get(token) != number:
            types.append(gguf.TokenType.UNUSED)
        else:
            types.append(gguf.TokenType.BYTE if pieces and is_byte(token) else gguf.TokenType.NORMAL)
    return types
