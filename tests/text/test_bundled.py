"""The bundled templates: all forms write the same text, for any conversation."""

from __future__ import annotations

from functools import cache

import go_mirror
import pytest
from conversations import samples
from go_run import expected, run_go
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from jinja2.exceptions import TemplateError
from template_cases import chat
from transformers import AutoTokenizer

from whet.config.chat_templates import CHAT_TEMPLATES, SPELLINGS
from whet.errors import DataError, ExportError
from whet.text.chat import bundled_chat_template, chat_template_of
from whet.text.template import bundled
from whet.text.templates import FORMATS

OF_PIECES = [name for name in FORMATS if name != "qwen-3"]
ASKED = chat("sBe brief.", "uHi", "aHo ", "uYes?")

# What the makers of each format publish, written out by hand.
LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
CHATML = "<|im_start|>{}\n{}"


def written(form, user, assistant, system="system", start="", end="", brief="Be brief."):
    """The conversation in a format that writes each turn as ``form``, with ``end`` after it."""
    roles = [(system, brief), (user, "Hi"), (assistant, "Ho "), (user, "Yes?")]
    turns = "".join(form.format(role, text) + end for role, text in roles if role)
    return start + turns + form.format(assistant, "")


DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
PUBLISHED = {
    "llama-3": written(LLAMA, "user", "assistant", start="<|begin_of_text|>", end="<|eot_id|>"),
    "llama-3.1": written(
        LLAMA, "user", "assistant", start="<|begin_of_text|>", end="<|eot_id|>", brief=DATES + "Be brief."
    ),
    "chatml": written(CHATML, "user", "assistant", end="<|im_end|>\n"),
    "qwen-2.5": written(CHATML, "user", "assistant", end="<|im_end|>\n"),
    "phi-3": written("<|{}|>\n{}", "user", "assistant", end="<|end|>\n"),
    "zephyr": written("<|{}|>\n{}", "user", "assistant", end="</s>\n"),
    "gemma-3": "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo <end_of_turn>\n"
    "<start_of_turn>user\nYes?<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Ho </s>[INST] Yes? [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHo </s>\n\n"
    "### Instruction:\nYes?\n\n### Response:\n",
    "vicuna": "Be brief. USER: Hi ASSISTANT: Ho </s>USER: Yes? ASSISTANT:",
}
STOPS = {
    "llama-3": "<|eot_id|>",
    "llama-3.1": "<|eot_id|>",
    "gemma-2": "<end_of_turn>",
    "gemma-3": "<end_of_turn>",
    "phi-3": "<|end|>",
    **dict.fromkeys(("chatml", "qwen-2.5", "qwen-3"), "<|im_end|>"),
    **dict.fromkeys(("mistral", "alpaca", "vicuna", "zephyr"), "</s>"),
}


@cache
def environment(trim):
    found = Environment(trim_blocks=trim, lstrip_blocks=trim, extensions=["jinja2.ext.loopcontrols"])

    def raise_exception(message):
        raise TemplateError(message)

    found.globals["raise_exception"] = raise_exception
    return found


@cache
def compiled(jinja, trim):
    return environment(trim).from_string(jinja)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def conversations_for(template, count):
    return samples(count, system=None if template.system else False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_format(name):
    assert bundled(name).render(ASKED, True) == PUBLISHED[name]


def test_gemma_2_has_no_place_for_a_system_message():
    assert bundled("gemma-2").render(ASKED[1:], True) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHo <end_of_turn>\n"
        "<start_of_turn>user\nYes?<end_of_turn>\n<start_of_turn>model\n"
    )
    with pytest.raises(DataError, match="'system'"):
        bundled("gemma-2").render(ASKED)


def test_defaults_where_no_system_message_is_given():
    qwen = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    assert bundled("qwen-2.5").render(chat("uHi")) == qwen + "<|im_start|>user\nHi<|im_end|>\n"
    assert "Today Date: 26 Jul 2024\n\n<|eot_id|>" in bundled("llama-3.1").render(chat("uHi"))
    assert bundled("alpaca").render(chat("uHi")).startswith("Below is an instruction that describes a task. Write a")
    assert bundled("vicuna").render(chat("uHi")).endswith("the user's questions. USER: Hi ")


@pytest.mark.parametrize("name", FORMATS)
def test_stops_are_the_turn_terminator(name):
    template = bundled_chat_template(name)
    assert template.stops == (STOPS[name],)
    assert template.ends_answers


@pytest.mark.parametrize("name", OF_PIECES)
def test_jinja_writes_the_same(tokenizer, name):
    template = bundled(name)
    tokenizer.chat_template = jinja = template.jinja()
    for messages in conversations_for(template, 40):
        for ask in (False, True):
            written = template.render(messages, ask)
            assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask) == written
            for trim in (False, True):
                assert compiled(jinja, trim).render(messages=messages, add_generation_prompt=ask) == written


@pytest.mark.parametrize("name", OF_PIECES)
def test_segments_are_the_text_and_hold_each_content_once(name):
    template = bundled(name)
    for messages in conversations_for(template, 30):
        found = template.segments(messages)
        assert "".join(segment.text for segment in found) == template.render(messages)
        contents = {s.message: s.text for s in found if s.part == "content" and s.message >= 0}
        assert [contents[i] for i in range(len(messages))] == [message["content"] for message in messages]
        assert sum(s.part == "content" and s.message >= 0 for s in found) == len(messages)


@pytest.mark.parametrize("name", OF_PIECES)
def test_the_jinja_is_read_back_as_the_same_pieces(tokenizer, name):
    tokenizer.chat_template = bundled(name).jinja()
    parsed = chat_template_of(tokenizer)
    assert parsed is not None
    assert parsed.pieces is not None
    assert (parsed.stops, parsed.no_go) == (bundled(name).stops, "")
    for messages in conversations_for(bundled(name), 15):
        assert parsed.pieces.render(messages, True) == bundled(name).render(messages, True)
    assert chat_template_of(tokenizer) is parsed


@pytest.mark.parametrize("name", OF_PIECES)
def test_the_go_mirror_writes_the_prompt(name):
    template = bundled(name)
    for messages in conversations_for(template, 30):
        assert go_mirror.render(template.go(), messages) == expected(template, messages)


def test_go_writes_the_prompt(go_program):
    work = [(bundled(name), messages) for name in OF_PIECES for messages in conversations_for(bundled(name), 40)]
    texts = run_go(go_program, [(template.go(), messages) for template, messages in work])
    assert len(texts) > 300
    assert texts == [expected(template, messages) for template, messages in work]


# --- qwen-3 ---


def qwen3(messages, ask=False, **more):
    return compiled(bundled_chat_template("qwen-3").jinja, False).render(
        messages=messages, add_generation_prompt=ask, **more
    )


def test_qwen_3_writes_thinking_after_the_last_question_only():
    first = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."}
    last = {"role": "assistant", "content": "<think>\nSure.\n</think>\n\nYes."}
    text = qwen3([*chat("uSum?"), first, *chat("uSure?"), last])
    assert text == (
        "<|im_start|>user\nSum?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\nSure.\n</think>\n\nYes.<|im_end|>\n"
    )
    assert qwen3([*chat("uSum?"), first]).endswith("<think>\nTwo and two.\n</think>\n\nFour.<|im_end|>\n")
    assert qwen3(chat("uSum?", "aFour.")).endswith("assistant\n<think>\n\n</think>\n\nFour.<|im_end|>\n")
    assert qwen3(chat("uSum?"), True).endswith("Sum?<|im_end|>\n<|im_start|>assistant\n")
    assert qwen3(chat("uSum?"), True, enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")


def test_qwen_3_has_a_reason_for_no_go_form():
    template = bundled_chat_template("qwen-3")
    assert (template.pieces, template.go) == (None, None)
    assert "thinking" in template.no_go
    with pytest.raises(DataError, match="bundled_chat_template"):
        bundled("qwen-3")


def test_qwen_3_is_the_same_with_and_without_block_trimming(tokenizer):
    tokenizer.chat_template = jinja = bundled_chat_template("qwen-3").jinja
    for messages in samples(40):
        for ask in (False, True):
            written = qwen3(messages, ask)
            assert compiled(jinja, True).render(messages=messages, add_generation_prompt=ask) == written
            assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask) == written
    parsed = chat_template_of(tokenizer)
    assert (parsed.pieces, parsed.go, parsed.stops) == (None, None, ("<|im_end|>",))
    assert "earlier answers" in parsed.no_go


# --- names and tokenizers ---


def test_every_spelling_names_one_template():
    assert set(CHAT_TEMPLATES) == set(FORMATS)
    assert len(SPELLINGS) == sum(1 + len(others) for others in CHAT_TEMPLATES.values())
    for alias, name in {
        "llama3": "llama-3",
        "qwen_25": "qwen-2.5",
        "gemma": "gemma-2",
        "mistral_v1": "mistral",
    }.items():
        assert bundled(alias) == bundled(name)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(DataError, match=r"(?s)'lama-3'.*use llama-3,"):
        bundled("lama-3")
    with pytest.raises(DataError, match="use qwen3,"):
        bundled_chat_template("qwen33")


@pytest.fixture
def own_tokens(tiny_llama_dir):
    """A tokenizer with a bos and an end token of its own; it adds bos by itself only when told to."""

    def make(adds_bos):
        from tokenizers.processors import TemplateProcessing

        found = AutoTokenizer.from_pretrained(tiny_llama_dir)
        found.bos_token, found.eos_token = "<|endoftext|>", "<|pad|>"
        if adds_bos:
            found.backend_tokenizer.post_processor = TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
            )
        return found

    return make


@pytest.mark.parametrize("adds_bos", [False, True])
def test_bos_and_eos_are_the_tokenizers(own_tokens, adds_bos):
    tokenizer = own_tokens(adds_bos)
    mistral = bundled("mistral", tokenizer)
    assert mistral.render(chat("uHi", "aHo")) == "<|endoftext|>[INST] Hi [/INST] Ho<|pad|>"
    # what the tokenizer adds by itself, llama.cpp adds too; everything else the Go form must write
    assert mistral.go().startswith("<|endoftext|>") is not adds_bos
    begins = bundled("chatml", tokenizer).render(chat("uHi")).startswith("<|endoftext|>")
    assert begins is adds_bos
    assert bundled_chat_template("qwen-3", tokenizer).jinja.startswith("{{ '<|endoftext|>' }}") is adds_bos
    tokenizer.chat_template = mistral.jinja()
    assert chat_template_of(tokenizer).pieces == mistral


def test_trimming_templates_have_no_go_form(tokenizer):
    tokenizer.chat_template = bundled("chatml").jinja().replace("message['content']", "(message['content'] | trim)")
    parsed = chat_template_of(tokenizer)
    assert parsed.pieces.trim
    assert parsed.go is None
    assert "white space" in parsed.no_go
    assert parsed.stops == ("<|im_end|>",)
    with pytest.raises(ExportError, match="white space"):
        parsed.pieces.go()


def test_no_terminator_is_seen(tokenizer):
    for jinja in (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
        "{% for m in messages %}{{ m.role + ': ' + m.content | upper + '\n' }}{% endfor %}",
        "{% for m in messages %}{{ m.role + ': ' + m.content + ('' if loop.last else '<|im_end|>') }}{% endfor %}",
    ):
        tokenizer.chat_template = jinja
        assert chat_template_of(tokenizer).ends_answers is ("upper" in jinja)


def test_messages_that_pieces_cannot_write():
    template = bundled("chatml")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert template.fits(ASKED)
    for messages in ([*chat("uHi"), call], [{"role": "tool", "content": "1"}], [{"role": "user", "content": None}]):
        assert not template.fits(messages)
        with pytest.raises(DataError):
            template.render(messages)
    assert not template.fits([*chat("uHi"), {"role": "assistant", "content": "Ho", "reasoning_content": "hm"}])
    assert not template.fits(chat("uHi"), tools=[{"name": "f"}])
    assert not bundled("gemma-3").fits(chat("uHi", "sLater"))
    with pytest.raises(DataError, match="after the beginning"):
        bundled("gemma-3").render(chat("uHi", "sLater"))
    with pytest.raises(DataError, match="without a user message"):
        bundled("gemma-3").render(chat("sAlone"))


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(["sS", "uU", "aA"]), max_size=5))
def test_jinja_refuses_what_the_pieces_refuse(turns):
    for name in ("gemma-2", "gemma-3", "alpaca"):
        template = bundled(name)
        try:
            written = template.render(chat(*turns))
        except DataError:
            with pytest.raises(TemplateError):
                compiled(template.jinja(), False).render(messages=chat(*turns))
        else:
            assert compiled(template.jinja(), False).render(messages=chat(*turns)) == written
