"""Frames of hand-formatted rows: the tutorials' own, common formats, and rows that have none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
from template_cases import EOS, TEMPLATES, chat
from transformers import AutoTokenizer

from whet.text.frame import infer_frame, infer_pair_frame, template_of_pairs, template_of_rows
from whet.text.template import Turn, bundled

TUTORIAL_A = """Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.

### Instruction:
Company database: {}

### Input:
SQL prompt: {}

### Response:
SQL: {}"""  # noqa: E501

TUTORIAL_B = """以下是描述任务的指令，配有的输入提供了进一步的上下文。请编写一个适当完成请求的响应。

### 指令:
{}

### 输入:
{}

### 响应:
{}"""


@pytest.fixture
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="module")
def sql_rows(shared):
    with (shared / "data" / "wikisql" / "train.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, 0, 20_000, 100)]


def made_rows(count=60):
    """Small rows that share more than the frame: every context, question and answer begins and ends alike."""
    tables = ["orders", "customers", "products", "staff", "offices", "payments", "visits"]
    return [
        {
            "context": f"CREATE TABLE {tables[i % 7]} (id INT, v{i} TEXT)",
            "question": f"What is v{i} of the {tables[i % 7]} with id {i * 7}?",
            "answer": f"SELECT v{i} FROM {tables[i % 7]} WHERE id = {i * 7}",
        }
        for i in range(count)
    ]


def a_texts(rows):
    return [TUTORIAL_A.format(row["context"], row["question"], row["answer"]) + EOS for row in rows]


def test_tutorial_a_on_its_real_rows(sql_rows):
    texts = a_texts(sql_rows)
    frame = infer_frame(texts, EOS)
    assert frame is not None
    head, between, last, _ = TUTORIAL_A.split("{}")
    assert (frame.system, frame.user, frame.assistant) == (Turn(head), Turn(between), Turn(last, EOS))
    assert frame.generation_prompt == "\n\n### Response:\nSQL:"
    assert frame.default_system == ""
    assert frame.stops == (EOS,)
    assert len(texts) == 200
    for row, text in zip(sql_rows, texts, strict=True):
        messages = chat("s" + row["context"], "u" + row["question"], "a" + row["answer"])
        assert frame.render(messages) == text
        assert text.startswith(frame.render(messages[:2], add_generation_prompt=True))


def test_tutorial_b_on_its_ten_rows(shared):
    rows = json.loads((shared / "data" / "sentiment" / "dataset.json").read_text(encoding="utf-8"))
    texts = [TUTORIAL_B.format(row["instruction"], row["input"], row["output"]) + EOS for row in rows]
    frame = infer_frame(texts, EOS)
    assert frame is not None
    assert frame.system is None
    assert frame.user.before == TUTORIAL_B.split("{}")[0] + rows[0]["instruction"] + "\n\n### 输入:\n"
    assert frame.assistant == Turn("\n\n### 响应:\n", EOS)
    assert [frame.render(chat("u" + row["input"], "a" + row["output"])) for row in rows] == texts


def test_an_instruction_that_varies_is_a_slot():
    texts = [TUTORIAL_B.format(row["context"], row["question"], row["answer"]) + EOS for row in made_rows()]
    frame = infer_frame(texts, EOS)
    assert frame is not None and frame.system is not None
    assert frame.system.before == TUTORIAL_B.split("{}")[0]


@pytest.mark.parametrize("count", [8, 60, 2000])
def test_what_the_values_share_stays_theirs(count):
    frame = infer_frame(a_texts(made_rows(count)), EOS)
    assert frame is not None and frame.system is not None
    assert frame.system.before.endswith("\nCompany database: ")
    assert frame.user.before == "\n\n### Input:\nSQL prompt: "
    assert frame.assistant.before == "\n\n### Response:\nSQL: "


@pytest.mark.parametrize(
    ("form", "user", "assistant"),
    [
        ("### Human: {q}### Assistant: {a}", "### Human: ", "### Assistant: "),
        ("<s>[INST] {q} [/INST] {a} </s>", "<s>[INST] ", " [/INST] "),
        ("USER: {q} ASSISTANT: {a}", "USER: ", " ASSISTANT: "),
        ("Q: {q}\nA: {a}", "Q: ", "\nA: "),
        ("{q}\n\n### SQL\n{a}", "", "\n\n### SQL\n"),
        ("用户：{q}\n助手：{a}", "用户：", "\n助手："),
        ("<|user|>\n{q}<|end|>\n<|assistant|>\n{a}", "<|user|>\n", "<|end|>\n<|assistant|>\n"),
        (
            "Schema of one table.\n\nQuestion: {q}\nAnswer:\n```sql\n{a}\n```",
            "Schema of one table.\n\nQuestion: ",
            "\nAnswer:\n",
        ),
        ('Q: {q}\nA: {{"sql": "{a}", "ok": true}}', "Q: ", "\nA: "),
        (
            "### Input:\n{q}\n\n### Response:\nSQL: {a}\n\nExplanation: reads {c}",
            "### Input:\n",
            "\n\n### Response:\nSQL: ",
        ),
    ],
)
def test_common_ways_to_format_rows(form, user, assistant):
    rows = made_rows()
    texts = [form.format(q=row["question"], a=row["answer"], c=row["context"]) + EOS for row in rows]
    frame = infer_frame(texts, EOS)
    assert frame is not None
    assert (frame.user.before, frame.assistant.before, frame.system) == (user, assistant, None)
    assert frame.generation_prompt == assistant.rstrip(" ")


def test_another_terminator_than_eos():
    texts = [f"<|user|>{row['question']}<|end|><|assistant|>{row['answer']}<|end|>\n" for row in made_rows()]
    frame = infer_frame(texts, EOS)
    assert frame is not None
    assert frame.assistant == Turn("<|end|><|assistant|>", "<|end|>\n")
    assert frame.stops == ("<|end|>",)


def test_a_stray_row_does_not_hide_the_frame():
    texts = a_texts(made_rows(300))
    assert infer_frame([*texts[:150], "something else" + EOS, *texts[150:]], EOS) == infer_frame(texts, EOS)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["### Input:\nx\n\n### Response:\ny" + EOS],
        [f"row {i}, only text without any frame." for i in range(50)],
        [f"{row['question']}\n{row['answer']}{EOS}" for row in made_rows()],
        [f"A: {i}\nB: {i + 1}\nC: {i + 2}\nD: {i + 3}{EOS}" for i in range(100, 160)],
        [f"Q: {i}\nA: {i}{EOS if i % 2 else ''}" for i in range(100, 160)],
        [f"Q: {i}\nA: {i}\nQ: {i + 5}\nA: {i + 7}{EOS}" for i in range(100, 160)],
        [
            f"Below is a task{', with an input' if i % 4 else ''}. Answer it.\n\n### Instruction:\nAdd one to {i}.\n\n"
            + (f"### Input:\n{i}\n\n" if i % 4 else "")
            + f"### Response:\n{i + 1}{EOS}"
            for i in range(60)
        ],
        [(f"### Input:\n{i}\n\n" if i % 2 else f"### Task:\n{i}\n\n") + f"### Response:\n{i}{EOS}" for i in range(60)],
    ],
    ids=[
        "empty",
        "one",
        "prose",
        "line break only",
        "four slots",
        "eos on half",
        "two turns",
        "alpaca with and without input",
        "two frames",
    ],
)
def test_rows_without_one_frame(texts):
    assert infer_frame(texts, EOS) is None


def test_pairs_know_where_the_answer_begins():
    rows = made_rows()
    pairs = [(f"{r['context']}\nQuestion: {r['question']}\nAnswer: Sure! ", r["answer"]) for r in rows]
    frame = infer_pair_frame(pairs, EOS)
    assert frame is not None and frame.system == Turn("")
    assert (frame.user.before, frame.assistant) == ("\nQuestion: ", Turn("\nAnswer: Sure! ", EOS))
    assert frame.render(chat("s" + rows[3]["context"], "u" + rows[3]["question"], "a" + rows[3]["answer"])) == (
        pairs[3][0] + pairs[3][1] + EOS
    )


def test_pairs_without_fixed_text_are_a_frame_too():
    frame = infer_pair_frame([(row["question"], " " + row["answer"]) for row in made_rows()], EOS)
    assert frame is not None
    assert frame.render(chat("uWhy?", "a Because")) == "Why? Because<|im_end|>"


def test_rows_in_the_tokenizers_own_template(tokenizer):
    rows = made_rows()
    texts = [
        tokenizer.apply_chat_template(chat("u" + row["question"], "a" + row["answer"]), tokenize=False) for row in rows
    ]
    found = template_of_rows(tokenizer, texts)
    assert (found.kind, found.template) == ("tokenizer", bundled("chatml"))
    assert template_of_rows(tokenizer, [text.rstrip() for text in texts]).kind == "tokenizer"


def test_rows_that_only_resemble_it_are_a_frame(tokenizer):
    """No line break after the terminators: not what the tokenizer's template writes."""
    texts = [
        f"<|im_start|>user\n{row['question']}<|im_end|><|im_start|>assistant\n{row['answer']}<|im_end|>"
        for row in made_rows()
    ]
    found = template_of_rows(tokenizer, texts)
    assert found.kind == "frame"
    assert found.template is not None
    assert found.template.assistant == Turn("<|im_end|><|im_start|>assistant\n", "<|im_end|>")


def test_a_template_that_trims_is_recognised_by_its_parts(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "(message['content'] | trim)")
    rows = made_rows()
    texts = [
        tokenizer.apply_chat_template(chat("u" + row["question"], "a" + row["answer"]), tokenize=False) for row in rows
    ]
    found = template_of_rows(tokenizer, texts)
    assert (found.kind, found.template) == ("tokenizer", replace(bundled("chatml"), trim=True))
    assert template_of_rows(tokenizer, a_texts(rows)).kind == "frame"


def test_hand_formatted_rows_and_rows_without_a_frame(tokenizer):
    found = template_of_rows(tokenizer, a_texts(made_rows()))
    assert found.kind == "frame"
    assert found.template is not None
    assert "SQL:" in found.reason
    assert template_of_rows(tokenizer, [f"just text {i}" for i in range(99)]).kind == "unknown"
    pairs = [(f"Q: {row['question']}\nA:", " " + row["answer"]) for row in made_rows()]
    assert template_of_pairs(tokenizer, pairs).kind == "frame"
    own = [
        (bundled("chatml").render(chat("u" + row["question"]), True), row["answer"] + "<|im_end|>\n")
        for row in made_rows()
    ]
    assert template_of_pairs(tokenizer, own).kind == "tokenizer"


def test_a_frame_begins_with_the_token_that_the_tokenizer_adds(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.bos_token = "<|endoftext|>"
    texts = a_texts(made_rows())
    for given in (texts, ["<|endoftext|>" + text for text in texts]):
        template = template_of_rows(tokenizer, given).template
        assert template is not None
        assert template.bos == "<|endoftext|>"
        ids = tokenizer(template.render(chat("sx", "uy", "az")), add_special_tokens=False)["input_ids"]
        assert ids.count(0) == 1


def test_a_frame_survives_the_tokenizer(tokenizer):
    template = template_of_rows(tokenizer, a_texts(made_rows())).template
    assert template is not None
    tokenizer.chat_template = template.jinja()
    from whet.text.template import from_jinja

    assert from_jinja(tokenizer) == template
    assert template.system_place == TEMPLATES["frame, two slots"].system_place == "each_turn"


def test_the_prompt_is_what_training_showed(tokenizer):
    """The tokens of the generation prompt are the first tokens of the row: the space belongs to the answer."""
    texts = a_texts(made_rows())
    template = template_of_rows(tokenizer, texts).template
    assert template is not None
    row = made_rows()[5]
    prompt = template.render(chat("s" + row["context"], "u" + row["question"]), add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer(texts[5], add_special_tokens=False)["input_ids"][: len(prompt_ids)] == prompt_ids
