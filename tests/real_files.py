"""Real vocabularies and chat templates, out of the sources of xllamacpp (llama.cpp's test files).

They are fetched once into the user's cache and never committed. Without a network, tests that need them skip.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath
from shutil import move

import pytest
from gguf_keys import read_keys
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SOURCE = "xllamacpp==2026.10.11549"
CACHE = Path.home() / ".cache" / "whet-tests" / (SOURCE.replace("==", "-") + "-files-3")
VOCABULARIES = {
    "llama-3": "llama-bpe",
    "qwen2": "qwen2",
    "phi-3": "phi-3",
    "llama-2": "llama-spm",
    "gemma": "gemma-4",
    "gpt-2": "gpt-2",
    "starcoder": "starcoder",
}
ENDS = {"llama-3": "<|eot_id|>", "qwen2": "<|im_end|>", "phi-3": "<|endoftext|>", "llama-2": "</s>", "gemma": "<turn|>"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_DIGITS = {"llama-3": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def real_folder() -> Path:
    """The folder of the fetched files; the test skips where they cannot be fetched."""
    if not CACHE.is_dir():
        reason = _fetch()
        if reason:
            pytest.skip(f"the sources of {SOURCE} cannot be fetched: {reason}")
    return CACHE


def _fetch() -> str:
    """Download and unpack what is needed; what went wrong, or ""."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "xllamacpp", SOURCE]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=250)
        except subprocess.TimeoutExpired:
            return "no answer in time"
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or not archives:
            return (done.stderr.strip().splitlines() or ["no archive came"])[-1]
        _unpack(archives[0], Path(scratch) / "models")
        if not CACHE.is_dir():
            move(Path(scratch) / "models", CACHE)
    return ""


def _unpack(archive: Path, folder: Path) -> None:
    wanted = tuple(f"ggml-vocab-{name}.gguf" for name in VOCABULARIES.values())
    for kind in ("templates", "snapshots"):
        (folder / kind).mkdir(parents=True)
    with tarfile.open(archive) as files:
        for member in files:
            path = PurePosixPath(member.name)
            is_template = path.parent.name == "templates" and path.suffix == ".jinja" and "models" in path.parts
            is_snapshot = path.parent.name == "snapshots" and path.suffix == ".schema"
            is_vocabulary = "models" in path.parts and path.name.startswith(wanted)
            if not member.isfile() or not (is_template or is_snapshot or is_vocabulary):
                continue
            content = files.extractfile(member)
            assert content is not None
            place = folder if is_vocabulary else folder / path.parent.name
            (place / path.name).write_bytes(content.read())


def real_templates() -> dict[str, str]:
    """Real chat templates as Jinja, by the name of their file."""
    folder = real_folder() / "templates"
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.jinja"))}


def real_snapshots() -> dict[str, str]:
    """Which type llama.cpp's quantiser gives each tensor of some published models, by the name of the file."""
    folder = real_folder() / "snapshots"
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.schema"))}


def tokenizer_cases(name: str) -> list[tuple[str, list[int]]]:
    """llama.cpp's own cases for a vocabulary: a text and its ids, without special tokens around it."""
    file = real_folder() / f"ggml-vocab-{VOCABULARIES[name]}.gguf"
    with open(f"{file}.inp", encoding="utf-8", newline="") as given:
        texts = given.read().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{file}.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(part) for part in line.split()]) for text, line in zip(texts, lines, strict=False)]


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A real vocabulary, one of ``VOCABULARIES``, as a fast tokenizer without chat template.

    Gemma's is that of Gemma 4, which has the shape of Gemma 2's and 3's: SentencePiece with its merges.
    It is shared by all tests of a run: set ``chat_template`` on a ``copy.deepcopy``, or set it anew in each test.
    """
    keys = read_keys(real_folder() / f"ggml-vocab-{VOCABULARIES[name]}.gguf")

    def field(key: str):
        return keys.get(f"tokenizer.ggml.{key}")

    tokens, types = field("tokens"), field("token_type")
    if name in ("gpt-2", "starcoder"):
        core = _gpt2(tokens, field("merges"), digits=name == "starcoder")
    elif name in _DIGITS:
        core = _byte_level(name, tokens, types, field("merges"))
    elif name == "gemma":
        core = _gemma(tokens, field("merges"))
    else:
        core = _sentence_pieces(tokens, types, field("scores"))
    _add_tokens(core, tokens, types, strips=name == "phi-3")
    bos = None if name in ("qwen2", "gpt-2", "starcoder") else tokens[field("bos_token_id")]
    if bos is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=ENDS.get(name, "<|endoftext|>"))


def _byte_level(name, tokens, types, merges) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=_pairs(merges), ignore_merges=name == "llama-3"))
    if name == "qwen2":
        core.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_WORDS.replace("DIGITS", _DIGITS[name])), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    return core


def _gpt2(tokens, merges, digits: bool) -> Tokenizer:
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=_pairs(merges)))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    core.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
    core.decoder = decoders.ByteLevel()
    return core


def _gemma(tokens, merges) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    bpe = models.BPE(vocab=vocabulary, merges=_pairs(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    core = Tokenizer(bpe)
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return core


def _pairs(merges) -> list[tuple[str, str]]:
    """A merge is two texts with a space between; the first text is never empty, but may be a space."""
    return [(merge[: merge.index(" ", 1)], merge[merge.index(" ", 1) + 1 :]) for merge in merges]


def _sentence_pieces(tokens, types, scores) -> Tokenizer:
    """SentencePiece joins the pair whose result scores best; as BPE that is one merge for each way to cut a token."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    found = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind != NORMAL:
            continue
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        found += [(-score, vocabulary[left], vocabulary[right], left, right) for left, right in known]
    merges = [(left, right) for *_, left, right in sorted(found)]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def _add_tokens(core: Tokenizer, tokens, types, strips: bool) -> None:
    """Control tokens are special. Phi-3's swallow the white space after them, all but three."""
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (CONTROL, USER_DEFINED):
            rstrip = strips and token not in ("<unk>", "<s>", "<|endoftext|>")
            special = kind == CONTROL
            added = AddedToken(token, special=special, normalized=False, rstrip=rstrip)
            core.add_special_tokens([added]) if special else core.add_tokens([added])
            assert core.token_to_id(token) == i
