from __future__ import annotations

from pathlib import Path

from whet.export.probes import DEFAULT_PROBES, render_probes
from whet.text.template import Turn, TurnTemplate

FRAME = TurnTemplate(user=Turn("Q: ", "\n"), assistant=Turn("A: ", "<|im_end|>"))
ASKED = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "X"}]


def test_a_question_ends_where_the_answer_begins(tiny_llama_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    asked, answered = render_probes(tokenizer, None, [ASKED, ANSWERED])
    assert asked.text.endswith("<|im_start|>assistant\n")
    assert answered.text.endswith("X<|im_end|>\n")
    assert not asked.plain


def test_a_template_without_a_system_part_gets_the_rest(tiny_llama_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    [asked] = render_probes(tokenizer, FRAME, [ASKED])
    assert asked.text == "Q: U\nA: "
    assert asked.messages == [{"role": "user", "content": "U"}]
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}<U>"
    [asked] = render_probes(tokenizer, None, [ASKED])
    assert asked.text == "<U>"


def test_without_any_template_the_text_is_plain(tiny_llama_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.chat_template = None
    [answered] = render_probes(tokenizer, None, [ANSWERED])
    assert (answered.text, answered.plain) == ("S\nU\nX", True)


def test_own_probes_cover_what_goes_wrong() -> None:
    text = "".join(message["content"] for probe in DEFAULT_PROBES for message in probe)
    assert {"\t", "\n", "🙂", "中", "ß"} <= set(text)
    assert {message["role"] for probe in DEFAULT_PROBES for message in probe} == {"system", "user", "assistant"}
