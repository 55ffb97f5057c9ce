"""What a template writes, its stops, and the Jinja that goes out and comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from template_cases import EOS, TEMPLATES, chat, chats
from transformers import AutoTokenizer

from whet.errors import DataError
from whet.text.derive import derive
from whet.text.encode import IGNORE, encode_messages
from whet.text.template import Turn, TurnTemplate, bundled, from_jinja


@pytest.fixture
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def test_chatml_writes_the_public_format():
    text = bundled("chatml").render(chat("sBe brief.", "uHi", "aHello"), add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert bundled("chatml").stops == ("<|im_end|>",)


def test_a_frame_keeps_its_empty_slot_and_is_repeated_in_each_turn():
    frame = TEMPLATES["frame, two slots"]
    assert frame.render(chat("uQ"), add_generation_prompt=True) == (
        "Below is an instruction.\n\n### Instruction:\nCompany database: \n\n### Input:\nSQL prompt: Q"
        "\n\n### Response:\nSQL:"
    )
    row = frame.render(chat("sT", "uQ", "aX"))
    assert frame.render(chat("sT", "uQ", "aX", "uQ", "aX")) == row + row
    assert row.endswith("SQL: X<|im_end|>")
    assert frame.stops == (EOS,)


def test_roles_without_a_place_are_errors():
    with pytest.raises(DataError, match="'system'"):
        TEMPLATES["frame, one slot"].render(chat("sBe brief.", "uHi"))
    with pytest.raises(DataError, match="'tool'"):
        bundled("chatml").render([{"role": "tool", "content": "1"}])
    with pytest.raises(DataError, match="chatml"):
        bundled("chat-ml")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_jinja_renders_the_same(tokenizer, name):
    template = TEMPLATES[name]
    tokenizer.chat_template = template.jinja()
    for messages in chats(template):
        for ask in (False, True):
            written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
            assert written == template.render(messages, ask)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_jinja_comes_back_as_the_same_template(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name].jinja()
    assert from_jinja(tokenizer) == TEMPLATES[name]


@pytest.mark.parametrize("name", ["chatml", "default system", "frame, two slots"])
def test_bos_goes_out_and_comes_back_apart(tokenizer, name):
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.bos_token = "<|endoftext|>"
    template = replace(TEMPLATES[name], bos="<|endoftext|>")
    tokenizer.chat_template = template.jinja()
    assert from_jinja(tokenizer) == template
    assert "<|endoftext|>" not in template.go()
    assert encode_messages(tokenizer, chat("uHi", "aHo")).ids.count(0) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_saved_tokenizer_can_be_read_again(tokenizer, tmp_path, name):
    tokenizer.chat_template = TEMPLATES[name].jinja()
    tokenizer.save_pretrained(tmp_path)
    assert from_jinja(AutoTokenizer.from_pretrained(tmp_path)) == TEMPLATES[name]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "hostile"])
def test_every_template_can_be_masked(tokenizer, name):
    template = TEMPLATES[name]
    tokenizer.chat_template = template.jinja()
    row = encode_messages(tokenizer, chat("uone", "atwo", "uthree", "afour"))
    trained = tokenizer.decode([label for label in row.labels if label != IGNORE])
    end = template.assistant.after.strip()
    assert trained.replace("\n", "").replace(" ", "") == f"two{end}four{end}"


PIECE = st.text(st.sampled_from("{}%#'\"\\\n\t <|>AUS:分"), max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.tuples(*[PIECE] * 7),
    default=st.sampled_from([None, "", "Be brief."]),
    generation=st.one_of(st.none(), PIECE),
    each=st.booleans(),
)
def test_any_pieces_come_back_as_the_same_text(tokenizer, pieces, default, generation, each):
    """Where two pieces meet, their border may come back elsewhere; the text is the same."""
    a, b, c, d, e, f, prefix = pieces
    template = TurnTemplate(
        Turn(a, b), Turn(c, d), Turn(e, f), default, prefix, generation, system_place="each_turn" if each else "turn"
    )
    tokenizer.chat_template = template.jinja()
    back = from_jinja(tokenizer)
    assert back is not None
    for messages in chats(template):
        assert back.render(messages, True) == template.render(messages, True)


QWEN_STYLE = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' or (message.role == 'system' and not loop.first) "
    "or message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def test_a_default_system_message_is_found(tokenizer):
    tokenizer.chat_template = QWEN_STYLE
    assert from_jinja(tokenizer) == replace(bundled("chatml"), default_system="You are Qwen.")


def test_a_generation_prompt_of_its_own_is_found(tokenizer):
    thinking = (
        bundled("chatml")
        .jinja()
        .replace(
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n'",
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>'",
        )
    )
    tokenizer.chat_template = thinking
    assert from_jinja(tokenizer) == replace(bundled("chatml"), generation="<|im_start|>assistant\n<think>")


@pytest.mark.parametrize(
    ("jinja", "why"),
    [
        (
            QWEN_STYLE.replace(
                "message.content", "(message.content | trim if message.role == 'assistant' else message.content)"
            ),
            "white space away from answers",
        ),
        ("{{ strftime_now('%d %b %Y') }}" + bundled("chatml").jinja(), "today's date"),
        ("{{ 'Q: ' + messages[-1]['content'] }}", "every message once"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + ('' if loop.last else '\n') }}{% endfor %}",
            "last answer",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + (messages[0].content + '\n' if "
            "messages[0].role == 'system' and loop.last else '') + m.content + ' [/INST] ' }}"
            "{% elif m.role == 'assistant' %}{{ m.content + '</s>' }}{% endif %}{% endfor %}",
            "the last user turn only",
        ),
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + m.content }}{% endif %}{% endfor %}",
            "leaves out the system",
        ),
    ],
)
def test_templates_that_do_more_are_not_taken(tokenizer, jinja, why):
    tokenizer.chat_template = jinja
    found, reason = derive(tokenizer)
    assert found is None
    assert why in reason


def test_a_tokenizer_without_template(tokenizer):
    tokenizer.chat_template = None
    assert from_jinja(tokenizer) is None


def test_stops_are_turn_terminators_only():
    assert TurnTemplate(Turn(), Turn("", "\n\n")).stops == ()
    assert TurnTemplate(Turn(), Turn("", "</s>\n")).stops == ("</s>",)


GEMMA_STYLE = (  # the system's text begins the first question, untrimmed; the turns are trimmed
    "{% set start, turns = '', messages %}{% if messages[0]['role'] == 'system' %}"
    "{% set start, turns = messages[0]['content'] + '\n\n', messages[1:] %}{% endif %}"
    "{% for m in turns %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}"
    "{{ '<start>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (start if loop.first else '') }}"
    "{{ m['content'] | trim }}{{ '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"
)
MISTRAL_STYLE = (
    "{% if messages[0]['role'] == 'system' %}{% set told, turns = messages[0]['content'], messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{% if loop.first and told is defined %}{{ ' [INST] ' + told + '\n\n' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% endif %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ raise_exception('roles') }}{% endif %}{% endfor %}"
)


def test_a_system_text_in_the_first_question_is_found(tokenizer):
    tokenizer.chat_template = GEMMA_STYLE
    end = "<end>\n"
    assert from_jinja(tokenizer) == TurnTemplate(
        Turn("<start>user\n", end),
        Turn("<start>model\n", end),
        Turn("", "\n\n"),
        system_place="first_user",
        trim=True,
        trim_system=False,
    )
    tokenizer.chat_template = MISTRAL_STYLE
    assert from_jinja(tokenizer) == TurnTemplate(
        Turn(" [INST] ", " [/INST]"), Turn(" ", EOS), Turn("", "\n\n"), generation="", system_place="first_user"
    )
