"""Ids and masks: exact at the border, in any script, and never found by looking at the text."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from whet.errors import DataError, ModelError
from whet.text.encode import (
    IGNORE,
    encode_conversations,
    encode_messages,
    encode_pair,
    encode_pairs,
    encode_text,
    render_prompt,
)

PLAIN = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="<|>"), max_size=40)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="module")
def bos_tokenizer(tiny_llama_dir):
    """As Llama's: <|endoftext|> is put before every text."""
    from tokenizers.processors import TemplateProcessing

    loaded = AutoTokenizer.from_pretrained(tiny_llama_dir)
    loaded.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
    )
    return loaded


@pytest.fixture(scope="module")
def trimming_tokenizer(tiny_llama_dir):
    """As GPT-2's: the offsets leave out white space in front of a token."""
    from tokenizers.processors import ByteLevel

    loaded = AutoTokenizer.from_pretrained(tiny_llama_dir)
    loaded.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    return loaded


def trained(tokenizer, row) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORE])


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("### Response:\n", "SELECT count(*) FROM orders"),
        ("分类以下文本的情感。\n### 响应:\n", "积极"),
        ("天气", "很好，我们去公园！\n"),
        ("say it: ", "🙂🙂 done"),
        ("Q: 1\nA:", "    indented\n\n  lines  "),
        ("", "only an answer"),
    ],
)
def test_the_answer_and_one_end_token_are_trained(tokenizer, trimming_tokenizer, prompt, answer):
    for each in (tokenizer, trimming_tokenizer):
        row = encode_pair(each, prompt, answer)
        assert row.ids == [*each(prompt + answer)["input_ids"], each.eos_token_id]
        assert row.labels[0] == IGNORE
        text = trained(each, row)
        expected = answer + "<|im_end|>"
        if prompt:
            # a token that begins in the prompt and ends in the answer is trained: here at most one space
            assert text.lstrip(" ") == expected.lstrip(" ")
            assert len(text) - len(expected) in (0, 1)
        else:
            assert expected.endswith(text)
        assert all(label in (IGNORE, token) for token, label in zip(row.ids, row.labels, strict=True))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=PLAIN, answer=PLAIN)
def test_a_token_is_trained_when_one_of_its_bytes_is_the_answers(trimming_tokenizer, tokenizer, prompt, answer):
    """Byte-level BPE writes one character per byte in its token texts: that gives the exact extents."""
    for each in (tokenizer, trimming_tokenizer):
        row = encode_pair(each, prompt, answer)
        ends = list(accumulate(len(token) for token in each.convert_ids_to_tokens(row.ids[:-1])))
        assert (ends or [0])[-1] == len((prompt + answer).encode())
        border = len(prompt.encode())
        for i, end in enumerate(ends):
            assert (row.labels[i] != IGNORE) == (end > border and i > 0)
        assert row.labels[-1] == (each.eos_token_id if ends else IGNORE)


def test_eos_is_there_once(tokenizer):
    assert encode_pair(tokenizer, "a", "b<|im_end|>") == encode_pair(tokenizer, "a", "b")
    assert encode_text(tokenizer, "b<|im_end|>", add_eos=True).ids == encode_text(tokenizer, "b", add_eos=True).ids
    assert encode_text(tokenizer, "b").ids == tokenizer("b")["input_ids"]


def test_bos_is_there_once_and_not_trained(bos_tokenizer):
    bos = bos_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for row in (
        encode_pair(bos_tokenizer, "", "b"),
        encode_pair(bos_tokenizer, "<|endoftext|>", "b"),
        encode_text(bos_tokenizer, "<|endoftext|>b"),
        encode_text(bos_tokenizer, "b"),
    ):
        assert row.ids.count(bos) == 1
        assert row.ids[0] == bos
        assert row.labels[0] == IGNORE
        assert row.labels[1] == row.ids[1]


def test_a_template_that_writes_bos_gets_no_second_one(bos_tokenizer):
    bos_tokenizer.chat_template = "{{ '<|endoftext|>' }}" + bos_tokenizer.chat_template
    row = encode_messages(bos_tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert row.ids.count(bos_tokenizer.convert_tokens_to_ids("<|endoftext|>")) == 1


def test_whole_text_but_the_first_token_is_trained(tokenizer):
    row = encode_text(tokenizer, "The quick brown fox")
    assert row.labels == [IGNORE, *row.ids[1:]]
    assert encode_pair(tokenizer, "The quick", " fox", train_on_inputs=True).labels[1:] == [
        *tokenizer("The quick fox")["input_ids"][1:],
        tokenizer.eos_token_id,
    ]


CHAT = [
    {"role": "system", "content": "Answer with SQL."},
    {"role": "user", "content": "How many? <im_start>assistant\nno"},
    {"role": "assistant", "content": "SELECT count(*) FROM orders"},
    {"role": "user", "content": "Repeat: SELECT count(*) FROM orders"},
    {"role": "assistant", "content": " 积极\n"},
]


def test_assistant_turns_and_their_terminators_are_trained(tokenizer):
    row = encode_messages(tokenizer, CHAT)
    assert row.ids == tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert trained(tokenizer, row) == "SELECT count(*) FROM orders<|im_end|> 积极\n<|im_end|>"
    assert trained(tokenizer, encode_messages(tokenizer, CHAT, "last")) == " 积极\n<|im_end|>"
    assert encode_messages(tokenizer, CHAT, "all").labels[1:] == row.ids[1:]


def test_the_prompt_at_inference_is_the_prompt_of_training(tokenizer):
    row = encode_messages(tokenizer, CHAT[:3])
    prompt_ids = tokenizer(render_prompt(tokenizer, CHAT[:2]), add_special_tokens=False)["input_ids"]
    first = next(i for i, label in enumerate(row.labels) if label != IGNORE)
    assert row.ids[:first] == prompt_ids


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=3))
def test_masked_in_text_is_the_answers_and_terminators(tokenizer, turns):
    messages = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = encode_messages(tokenizer, messages)
    assert trained(tokenizer, row) == "".join(answer + "<|im_end|>" for _, answer in turns)
    assert row.ids == tokenizer.apply_chat_template(messages, return_dict=False)


def test_without_a_special_terminator_the_whole_turn_is_trained(tokenizer, tiny_llama_dir):
    plain = AutoTokenizer.from_pretrained(tiny_llama_dir)
    plain.chat_template = (
        "{% for m in messages %}{{ ('Q: ' if m['role'] == 'user' else 'A: ') + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
    )
    row = encode_messages(plain, [{"role": "user", "content": "x"}, {"role": "assistant", "content": "12"}])
    assert trained(plain, row).lstrip(" ") == "12\n"


def test_a_template_that_does_not_write_an_answer_is_refused(tiny_llama_dir):
    stripping = AutoTokenizer.from_pretrained(tiny_llama_dir)
    stripping.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + (m['content'] if loop.last else 'x') + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    with pytest.raises(DataError, match="cannot be masked"):
        encode_messages(stripping, CHAT)


def test_clear_errors(tokenizer, tiny_llama_dir):
    bare = AutoTokenizer.from_pretrained(tiny_llama_dir)
    bare.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        encode_messages(bare, CHAT)
    bare.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="roles must alternate"):
        encode_messages(bare, CHAT)
    bare.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        encode_pair(bare, "a", "b")
    with pytest.raises(DataError, match="train_on"):
        next(encode_conversations(tokenizer, [CHAT], "everything"))


def test_many_rows_are_as_one_by_one(tokenizer):
    pairs = [(f"question {i}\n", f"answer {i}") for i in range(1203)]
    rows = list(encode_pairs(tokenizer, iter(pairs)))
    assert len(rows) == 1203
    assert rows[1202] == encode_pair(tokenizer, *pairs[1202])
    assert rows[3] == encode_pair(tokenizer, *pairs[3])
