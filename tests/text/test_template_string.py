"""Template strings: what one or two example turns say, in every form, and what is no template."""

from __future__ import annotations

from typing import Any

import pytest
from go_mirror import render as render_go
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from whet.errors import DataError
from whet.text.template import Turn, TurnTemplate
from whet.text.template_string import parse_template

EOS = "<|eot|>"
SPECIAL = ("<|user|>", "<|assistant|>", "<|system|>", "<|start|>", "<|end|>", EOS)
ALPACA = "Below are tasks.\n\n### Instruction:\n{INPUT}\n\n### Response:\n{OUTPUT}"
SECOND = "\n\n### Instruction:\n{INPUT}\n\n### Response:\n{OUTPUT}"
CHATML = "<|start|>system\n{SYSTEM}<|end|>\n<|start|>user\n{INPUT}<|end|>\n<|start|>assistant\n{OUTPUT}<|end|>\n"
LLAMA = (
    "<|bos|><|start|>system<|end|>\n\n{SYSTEM}<|eot|><|start|>user<|end|>\n\n{INPUT}<|eot|>"
    "<|start|>assistant<|end|>\n\n{OUTPUT}<|eot|>"
)


def parse(text: str, **more: Any) -> TurnTemplate:
    return parse_template(text, eos=EOS, special=SPECIAL, **more)


def chat(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *messages]


def in_jinja(template: TurnTemplate, messages: list[dict[str, str]], ask: bool = False) -> str:
    """As transformers runs it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.jinja()).render(messages=messages, add_generation_prompt=ask)


def test_the_preamble_is_written_once() -> None:
    template = parse(ALPACA)
    assert template.render(chat("a", "b", "c", "d")) == (
        "Below are tasks.\n\n### Instruction:\na\n\n### Response:\nb<|eot|>"
        "\n\n### Instruction:\nc\n\n### Response:\nd<|eot|>"
    )
    assert template.render(chat("a"), True) == "Below are tasks.\n\n### Instruction:\na\n\n### Response:\n"
    assert template.stops == (EOS,)
    assert template == parse(ALPACA + SECOND)  # the second pair says the same


@pytest.mark.parametrize(
    ("text", "once", "again"),
    [
        (ALPACA, "Below are tasks.", "\n\n### Instruction:\n"),
        (ALPACA + "\n\n", "Below are tasks.\n\n", "### Instruction:\n"),  # the turn before brings the blank line
        ("Intro.\n\nMore.\n\n\nQ: {INPUT}\nA: {OUTPUT}", "Intro.\n\nMore.", "\n\n\nQ: "),
        ("Chat. USER: {INPUT} ASSISTANT: {OUTPUT}", "Chat.", " USER: "),
        ("Chat.\n### Input:\n{INPUT}\n### Output:\n{OUTPUT}", "Chat.", "\n### Input:\n"),
        ("Chat.<|user|>\n{INPUT}<|assistant|>\n{OUTPUT}", "Chat.", "<|user|>\n"),
        ("Chat.<|start|>user<|end|>\n{INPUT}<|start|>x<|end|>\n{OUTPUT}<|eot|>", "Chat.", "<|start|>user<|end|>\n"),
        ("<|start|>user<|end|>\n\n{INPUT}<|eot|><|start|>x<|end|>\n\n{OUTPUT}<|eot|>", "", "<|start|>user<|end|>\n\n"),
        ("[INST] {INPUT} [/INST] {OUTPUT}", "", "[INST] "),
        ("say {INPUT} then {OUTPUT}", "", "say "),
        (
            "Sys.<|eot|><|start|>user<|end|>\n\n{INPUT}<|eot|>a{OUTPUT}<|eot|>",
            "Sys.<|eot|>",
            "<|start|>user<|end|>\n\n",
        ),
        ("{INPUT}\n{OUTPUT}", "", ""),
    ],
)
def test_what_one_pair_repeats(text: str, once: str, again: str) -> None:
    template = parse(text)
    assert (template.prefix, template.user.before) == (once, again)


def test_a_system_place_between_special_tokens() -> None:
    template = parse(CHATML, default_system="Be kind.")
    assert template.system == Turn("<|start|>system\n", "<|end|>\n")
    assert template.user == Turn("<|start|>user\n", "<|end|>\n")
    assert template.assistant == Turn("<|start|>assistant\n", "<|end|>\n")
    assert template.stops == ("<|end|>",)
    assert template.render(chat("a")).startswith("<|start|>system\nBe kind.<|end|>\n<|start|>user\na<|end|>\n")
    assert parse(CHATML).render(chat("a")) == "<|start|>user\na<|end|>\n"
    two = CHATML + "<|start|>user\n{INPUT}<|end|>\n<|start|>assistant\n{OUTPUT}<|end|>\n"
    assert parse(two) == parse(CHATML)
    unfinished = two.removesuffix("<|end|>\n")
    whole = parse(CHATML).render(chat("a", "b", system="s"))
    assert parse(unfinished).render(chat("a", "b", system="s")) == whole.removesuffix("\n")


def test_blank_lines_inside_of_headers_are_no_border() -> None:
    template = parse(LLAMA, bos="<|bos|>")
    assert template.bos == "<|bos|>"
    assert template.system == Turn("<|start|>system<|end|>\n\n", "<|eot|>")
    assert template.user == Turn("<|start|>user<|end|>\n\n", "<|eot|>")
    assert parse(LLAMA.removeprefix("<|bos|>"), bos="<|bos|>") == template


@pytest.mark.parametrize(
    ("end", "after", "stop"),
    [
        ("", EOS, EOS),
        ("\n", EOS + "\n", EOS),
        ("\n---\n", EOS + "\n---\n", EOS),
        (EOS, EOS, EOS),
        (EOS + "\n", EOS + "\n", EOS),
        ("\n" + EOS, "\n" + EOS, EOS),
        ("<|end|>\n", "<|end|>\n", "<|end|>"),
        ("<|end|>" + EOS, "<|end|>" + EOS, "<|end|>"),
    ],
)
def test_the_terminator_is_there_and_never_twice(end: str, after: str, stop: str) -> None:
    template = parse("Q: {INPUT}\nA:\n{OUTPUT}" + end)
    assert template.assistant.after == after
    assert template.stops == (stop,)


def test_extra_stops_come_after_the_terminator_in_the_given_order() -> None:
    template = parse(ALPACA, extra_stops=["</s>", EOS, "###", "</s>"])
    assert template.stops == (EOS, "</s>", "###")


def test_the_space_before_the_answer_is_the_answers() -> None:
    template = parse("Q: {INPUT}\nA: {OUTPUT}")
    assert template.render(chat("a"), True) == "Q: a\nA:"
    assert template.render(chat("a", "b")) == "Q: a\nA: b<|eot|>"


def test_braces_that_are_no_field_are_text() -> None:
    text = 'JSON {"a": 1} {x} {} {{INPUT}} and {{% if %}} {OUTPUT}'
    assert parse(text).render(chat("i", "o")) == 'JSON {"a": 1} {x} {} {i} and {{% if %}} o' + EOS
    assert in_jinja(parse(text), chat("i", "o")) == parse(text).render(chat("i", "o"))


THREE = ALPACA + SECOND + SECOND


@pytest.mark.parametrize(
    ("text", "what", "line", "caret"),
    [
        (THREE, "{INPUT} after two turn pairs (line 16)", "{INPUT}", 0),
        ("Q {OUTPUT} A {INPUT}", "{OUTPUT} where {INPUT} is expected", "Q {OUTPUT} A {INPUT}", 2),
        ("Q {INPUT} A {INPUT}", "{INPUT} where {OUTPUT} is expected", "Q {INPUT} A {INPUT}", 12),
        ("Q {INPUT} A", "{OUTPUT} is missing", "Q {INPUT} A", 11),
        ("no fields", "{INPUT} is missing", "no fields", 9),
        ("Q {INPUT} A {OUTPUT} Q {INPUT} A", "{OUTPUT} is missing", "Q {INPUT} A {OUTPUT} Q {INPUT} A", 32),
        ("{input} A {OUTPUT}", "{input} is no field", "{input} A {OUTPUT}", 0),
        ("Q\n{INPUT} A {Output}", "{Output} is no field (line 2)", "{INPUT} A {Output}", 10),
        ("{INPUT} A {OUTPUTS}", "{OUTPUTS} is no field", "{INPUT} A {OUTPUTS}", 10),
        ("{ INPUT } A {OUTPUT}", "{ INPUT } is no field", "{ INPUT } A {OUTPUT}", 0),
        ("{SYSTEM} {SYSTEM} {INPUT} A {OUTPUT}", "{SYSTEM} a second time", "{SYSTEM} {SYSTEM} {INPUT} A {OUTPUT}", 9),
        ("{INPUT} {SYSTEM} {OUTPUT}", "{SYSTEM} after {INPUT}", "{INPUT} {SYSTEM} {OUTPUT}", 8),
        ("Q {INPUT}{OUTPUT}", "nothing stands between {INPUT} and {OUTPUT}", "Q {INPUT}{OUTPUT}", 9),
        ("Q {INPUT}  {OUTPUT}", "nothing stands between {INPUT} and {OUTPUT}", "Q {INPUT}  {OUTPUT}", 9),
        ("{SYSTEM}{INPUT} A {OUTPUT}", "nothing stands between {SYSTEM} and {INPUT}", "{SYSTEM}{INPUT} A {OUTPUT}", 8),
        ("{INPUT} A {OUTPUT} {INPUT} B {OUTPUT}", "the second pair differs here from the first",
         "{INPUT} A {OUTPUT} {INPUT} B {OUTPUT}", 27),
        ("q{INPUT} A {OUTPUT}|q{INPUT} A {OUTPUT}!", "this does not follow the first answer",
         "q{INPUT} A {OUTPUT}|q{INPUT} A {OUTPUT}!", 39),
    ],
)  # fmt: skip
def test_a_fault_is_shown_with_a_caret(text: str, what: str, line: str, caret: int) -> None:
    with pytest.raises(DataError) as caught:
        parse(text)
    said = str(caught.value).splitlines()
    assert said[:3] == [what, "    " + line, " " * (caret + 4) + "^"]


def test_a_misspelled_field_names_the_right_one() -> None:
    with pytest.raises(DataError, match=r"did you mean \{OUTPUT\}\?"):
        parse("{INPUT} A {OUPUT}")


def test_a_long_line_is_shown_around_the_fault() -> None:
    with pytest.raises(DataError) as caught:
        parse("word " * 200 + "{INPUT}{OUTPUT}")
    _, shown, caret = str(caught.value).splitlines()[:3]
    assert len(shown) <= 104 and shown[len(caret) - 1 :].startswith("{OUTPUT}")


# --- properties ---

WORDS = st.sampled_from(
    [
        *SPECIAL,
        "Below are tasks.",
        "### Input:\n",
        "USER:",
        "A",
        "\n",
        "\n\n",
        " ",
        "{x}",
        "{{",
        "%}",
        '"""',
        "'",
        "\\",
        "系统：",
        "[INST]",
    ]
)
PIECES = st.lists(WORDS, max_size=4).map("".join)
BETWEEN = PIECES.filter(lambda text: text.rstrip(" \t"))
CONTENT = st.text(alphabet="ab é题{}\"'\n<|>", max_size=8)


def with_end(text: str) -> str:
    return text if any(token in text for token in SPECIAL) else EOS + text


@given(PIECES, PIECES, BETWEEN, PIECES, CONTENT, CONTENT, st.booleans())
@settings(max_examples=300, deadline=None)
def test_one_pair_renders_what_it_shows(
    start: str, head: str, middle: str, end: str, asked: str, answer: str, told: bool
) -> None:
    if told and not head.rstrip(" \t"):
        return
    text = (start + "{SYSTEM}" if told else start) + head + "{INPUT}" + middle + "{OUTPUT}" + end
    template = parse(text)
    messages = chat(asked, answer, system="S" if told else None)
    shown = (start + "S" if told else start) + head + asked + middle + answer + with_end(end)
    assert template.render(messages) == shown
    assert in_jinja(template, messages) == shown
    prompt = template.render(messages[:-1], True)
    assert shown.startswith(prompt) and not shown[len(prompt) :].removesuffix(answer + with_end(end)).strip(" \t")
    assert in_jinja(template, messages[:-1], True) == prompt


@given(PIECES, PIECES, BETWEEN, PIECES, st.lists(CONTENT, min_size=4, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_two_pairs_render_what_they_show(
    once: str, again: str, middle: str, end: str, contents: list[str], whole: bool
) -> None:
    """What is put together out of a preamble, a question's beginning, an answer's beginning and its end."""
    pair = again + "{INPUT}" + middle + "{OUTPUT}"
    text = once + pair + end + pair + (end if whole else "")
    template = parse(text)
    a, b, c, d = contents
    shown = template.render(chat(a, b, c, d))
    first = once + again + a + middle + b
    assert shown.startswith(first) and shown.endswith(c + middle + d + template.assistant.after)
    between = shown[len(first) : len(shown) - len(c + middle + d + template.assistant.after)]
    assert between in (end + again, EOS + end + again)
    assert any(token in template.assistant.after for token in SPECIAL)
    if whole and any(token in end for token in SPECIAL):
        assert shown == once + again + a + middle + b + end + again + c + middle + d + end
    assert in_jinja(template, chat(a, b, c, d)) == shown
    assert render_go(template.go(), chat(a, b, c)) == template.render(chat(a, b, c), True)
