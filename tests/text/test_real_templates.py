"""Real chat templates and vocabularies: what is found in them, and that pieces and Go write what the Jinja writes."""

from __future__ import annotations

import copy

import pytest
from conversations import samples
from go_run import expected, run_go
from hypothesis import given, settings
from hypothesis import strategies as st
from real_files import VOCABULARIES, real_templates, real_tokenizer, tokenizer_cases
from template_cases import chat

from whet.text.chat import bundled_chat_template, chat_template_of
from whet.text.probes import Renderer

QWEN_2, QWEN_3 = "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B"
GEMMA_2, LLAMA_31 = "google-gemma-2-2b-it", "meta-llama-Llama-3.1-8B-Instruct"
PHI_3, NEMO = "microsoft-Phi-3.5-mini-instruct", "mistralai-Mistral-Nemo-Instruct-2407"


@pytest.fixture(scope="module")
def parsed():
    """Each real template with a tokenizer of its own, and what whet finds in it."""
    found = {}
    for name, jinja in real_templates().items():
        tokenizer = copy.copy(real_tokenizer("llama-2"))
        tokenizer.chat_template = jinja
        found[name] = (tokenizer, chat_template_of(tokenizer))
    return found


def conversations(pieces, **kinds):
    return samples(25, system=None if pieces.system is not None else False, **kinds)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_vocabularies_encode_as_llama_cpp_does(name):
    tokenizer, cases = real_tokenizer(name), tokenizer_cases(name)
    assert len(cases) >= 45
    for text, ids in cases:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def test_each_has_pieces_or_a_reason(parsed):
    assert len(parsed) >= 25
    for template in (template for _, template in parsed.values()):
        assert (template.go is None) == bool(template.no_go)
        assert (template.pieces is None) <= (template.go is None)
        assert not any("<think>" in stop or "<tool_call>" in stop for stop in template.stops)
    assert sum(template.pieces is not None for _, template in parsed.values()) >= 25
    assert sum(template.go is not None for _, template in parsed.values()) >= 18


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (QWEN_3, "writes earlier answers in another way"),
        ("meta-llama-Llama-3.2-3B-Instruct", "today's date"),
        (NEMO, "in the last user turn only"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "takes the thinking out of answers"),
        ("tencent-Hy3", "leaves the last answer open"),
        ("google-translategemma-4b-it", "refuses a plain question"),
        (LLAMA_31, "takes away the white space"),
        (GEMMA_2, "takes away the white space"),
    ],
)
def test_why_there_is_no_go_form(parsed, name, reason):
    assert reason in parsed[name][1].no_go


@pytest.mark.parametrize(
    ("name", "stop"),
    [(QWEN_2, "<|im_end|>"), (LLAMA_31, "<|eot_id|>"), (PHI_3, "<|end|>"), (GEMMA_2, "<end_of_turn>"),
     (QWEN_3, "<|im_end|>"), (NEMO, "</s>"), ("ByteDance-Seed-OSS", "<seed:eos>")],
)  # fmt: skip
def test_stops_and_terminators(parsed, name, stop):
    template = parsed[name][1]
    assert (template.stops, template.ends_answers) == ((stop,), True)


def test_answers_that_no_template_text_ends(parsed):
    open_ended = {name for name, (_, template) in parsed.items() if not template.ends_answers}
    assert {"tencent-Hy3", "GLM-4.6", "Apriel-1.6-15b-Thinker-fixed"} <= open_ended
    assert len(open_ended) < 10


def test_pieces_write_what_the_jinja_writes(parsed):
    for name, (tokenizer, template) in parsed.items():
        if template.pieces is None:
            continue
        for messages in conversations(template.pieces):
            assert template.pieces.fits(messages)
            written = tokenizer.apply_chat_template(messages, tokenize=False)
            assert template.pieces.render(messages) == written, name


def test_go_writes_what_the_jinja_writes(parsed, go_program):
    work, wanted = [], []
    for tokenizer, template in parsed.values():
        if template.go is None:
            continue
        for messages in conversations(template.pieces, answered=False):
            work.append((template.go, messages))
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            wanted.append(prompt.removeprefix(template.pieces.bos))
    assert len(work) > 400
    assert run_go(go_program, work) == wanted


def test_go_leaves_a_begun_answer_open(parsed, go_program):
    cases = [
        (template, chat("sS", "uone", "atwo", "uthree", "afour")) for _, template in parsed.values() if template.go
    ]
    cases = [(template, messages) for template, messages in cases if template.pieces.system is not None]
    texts = run_go(go_program, [(template.go, messages) for template, messages in cases])
    assert texts == [expected(template.pieces, messages) for template, messages in cases]


# --- the bundled templates against the real ones ---


@pytest.mark.parametrize(
    ("bundled", "real", "kinds"),
    [("qwen-2.5", QWEN_2, {}), ("llama-3.1", LLAMA_31, {}), ("gemma-2", GEMMA_2, {"system": False}),
     ("phi-3", PHI_3, {"answered": False})],
)  # fmt: skip
def test_bundled_templates_are_the_real_ones(parsed, bundled, real, kinds):
    tokenizer, template = parsed[real]
    ours = bundled_chat_template(bundled, tokenizer).pieces
    for messages in samples(40, **kinds):
        if template.pieces.trim:
            messages = [{**message, "content": message["content"].strip()} for message in messages]
        if template.pieces.skip_empty_system:
            messages = [message for message in messages if message["content"] or message["role"] != "system"]
        ask = messages[-1]["role"] == "user"
        written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        assert ours.render(messages, ask).removeprefix(ours.bos) == written.removeprefix(ours.bos)


WORDS = st.sampled_from(["", "one", "two\n", "\n\nthree", "<think>\nhm\n</think>\n\nfour", "</think>five", '"6"'])
CALLS = st.lists(
    st.sampled_from([{"name": "f", "arguments": {"a": "é", "b": [1]}}, {"name": "g", "arguments": '{"x": 1}'}]),
    max_size=2,
)


@st.composite
def tool_conversations(draw):
    """Questions, thinking, calls of tools and their results, in any order that happens."""
    messages = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(WORDS)})
        for _ in range(draw(st.integers(0, 2))):
            answer = {"role": "assistant", "content": draw(WORDS)}
            if draw(st.booleans()):
                answer["reasoning_content"] = draw(WORDS)
            answer["tool_calls"] = [{"type": "function", "function": call} for call in draw(CALLS)]
            messages.append(answer)
            messages += [{"role": "tool", "content": draw(WORDS)} for _ in answer["tool_calls"]]
    return messages


TOOLS = [{"type": "function", "function": {"name": "f", "description": "<b> & é", "parameters": {}}}]


def test_qwen_3_is_the_real_one(parsed):
    real = parsed[QWEN_3][0]
    ours = copy.copy(real)
    ours.chat_template = bundled_chat_template("qwen-3").jinja

    @settings(max_examples=80, deadline=None, database=None, derandomize=True)
    @given(tool_conversations(), st.booleans(), st.booleans(), st.sampled_from([{}, {"enable_thinking": False}]))
    def check(messages, tools, ask, more):
        options = {"tools": TOOLS if tools else None, "add_generation_prompt": ask, "tokenize": False, **more}
        assert ours.apply_chat_template(messages, **options) == real.apply_chat_template(messages, **options)

    check()


def test_a_template_that_refuses_says_so(parsed):
    tokenizer, _ = parsed[GEMMA_2]
    assert Renderer(tokenizer)(chat("sS", "uone")) is None
