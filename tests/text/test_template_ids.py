"""Training, ``apply_chat_template`` and Ollama's Go template give the same ids, for every bundled template."""

from __future__ import annotations

import re

import pytest
from conversations import samples
from go_run import run_go
from transformers import AutoTokenizer

from whet.text.chat import bundled_chat_template, chat_template_of
from whet.text.encode import Encoded, encode_messages
from whet.text.masks import Marker
from whet.text.templates import FORMATS

SPECIAL = r"<\|im_\w+\|>|<\|(?:begin_of_text|start_header_id|end_header_id|eot_id)\|>|<\w+_of_turn>|<bos>|</?s>"
PHI = r"<\|(?:system|user|assistant|end)\|>"
COUNT = 40


@pytest.fixture(scope="module")
def tokenizers(tiny_llama_dir):
    """A tokenizer for each format, in which the format's own tokens are special."""
    found = {}
    for name in FORMATS:
        tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
        plain = bundled_chat_template(name)
        texts = re.findall(SPECIAL + ("|" + PHI if name == "phi-3" else ""), plain.jinja)
        tokenizer.add_special_tokens({"additional_special_tokens": sorted({*texts, *plain.stops})})
        tokenizer.eos_token = plain.stops[0]
        tokenizer.chat_template = bundled_chat_template(name, tokenizer).jinja
        found[name] = tokenizer
    return found


def conversations(name, **options):
    pieces = bundled_chat_template(name).pieces
    return samples(COUNT, system=None if pieces is None or pieces.system else False, **options)


def answers_of(tokenizer, messages) -> list[str]:
    """What must be trained: each answer as the template writes it, with its terminator."""
    pieces = chat_template_of(tokenizer).pieces
    if pieces is not None:
        lead = pieces.assistant.before.removeprefix(pieces.generation_prompt)
        return [lead + m["content"] + pieces.assistant.after.rstrip() for m in messages if m["role"] == "assistant"]
    head = "<|im_start|>assistant\n"
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return [turn.removesuffix("\n") for turn in re.split(r"(?<=<\|im_end\|>\n)", text) if turn.startswith(head)]


def check_range(tokenizer, row: Encoded, span: tuple[int, int], wanted: str) -> None:
    """The range is the answer and its terminator; of what stands before, at most a part of its first token."""
    start, stop = span
    text = tokenizer.decode(row.ids[start:stop])
    assert text.endswith(wanted)
    extra = text[: len(text) - len(wanted)]
    assert not extra or (not extra.strip() and len(extra) < len(tokenizer.decode(row.ids[start : start + 1])))


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_the_template_s_own_and_the_answers_are_trained(tokenizers, name):
    tokenizer = tokenizers[name]
    for messages in conversations(name, answered=True):
        row = encode_messages(tokenizer, messages)
        assert row.ids == tokenizer.apply_chat_template(messages, return_dict=False)
        wanted = answers_of(tokenizer, messages)
        assert len(row.trained) == len(wanted)
        for span, answer in zip(row.trained, wanted, strict=True):
            check_range(tokenizer, row, span, answer.removeprefix("<|im_start|>assistant\n"))
        assert row.literal == 0


@pytest.mark.parametrize("name", FORMATS)
def test_pieces_and_jinja_mark_the_same(tokenizers, name):
    tokenizer = tokenizers[name]
    for train_on in ("assistant", "last", "all"):
        fast, slow = Marker(tokenizer, train_on), Marker(tokenizer, train_on)
        slow.pieces = None
        for messages in conversations(name, answered=True)[:20]:
            assert fast.mark(messages) == slow.mark(messages)
        assert (fast.pieces is None) == (name == "qwen-3")


def test_go_gives_the_ids_of_the_prompt(tokenizers, go_program):
    work, wanted = [], []
    for name, tokenizer in tokenizers.items():
        template = chat_template_of(tokenizer)
        if template.go is None:
            assert name == "qwen-3"
            continue
        for messages in conversations(name, answered=False):
            work.append((template.go, messages))
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            wanted.append((tokenizer, template.pieces.bos, ids))
    texts = run_go(go_program, work)
    assert len(texts) == COUNT * (len(FORMATS) - 1)
    for text, (tokenizer, bos, ids) in zip(texts, wanted, strict=True):
        assert tokenizer(bos + text, add_special_tokens=False)["input_ids"] == ids
