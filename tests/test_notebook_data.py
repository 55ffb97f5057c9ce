"""The notebook's functions on data, with the starter's real tokenizer and real trainers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from whet import (
    FastLanguageModel,
    SFTConfig,
    SFTTrainer,
    apply_chat_template,
    get_chat_template,
    starter_path,
    train_on_responses_only,
)
from whet.console import forget_notices
from whet.errors import DataError, ModelError, WhetError
from whet.notebook import describe_template
from whet.notebook_data import PREAMBLE
from whet.text.encode import encode_messages

EOS = "<|im_end|>"
ALPACA = PREAMBLE + "\n\n### Instruction:\n{INPUT}\n\n### Response:\n{OUTPUT}"
SHAREGPT = {"role": "from", "content": "value", "user": "human", "assistant": "gpt"}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    forget_notices()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(starter_path())


def talk(i: int, turns: int = 2) -> dict[str, Any]:
    turn = [{"from": "human", "value": f"How many orders in {i}?"}, {"from": "gpt", "value": f"There are {i}.\n\nYes."}]
    return {"conversations": turn * turns}


ROWS = [talk(i) for i in range(6)]


# --- apply_chat_template ---


def test_the_users_template_is_everywhere(tokenizer: Any) -> None:
    result = apply_chat_template(ROWS, tokenizer, ALPACA)
    assert result.column_names == ["conversations", "text"]
    turn = "\n\n### Instruction:\nHow many orders in 3?\n\n### Response:\nThere are 3.\n\nYes." + EOS
    assert result["text"][3] == PREAMBLE + turn * 2
    messages = [{"role": "user", "content": "Hi"}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert written == PREAMBLE + "\n\n### Instruction:\nHi\n\n### Response:\n"
    assert tokenizer._ollama_modelfile.count(PREAMBLE) == 1
    assert "\n\n### Instruction:\n{{ .Content }}" in tokenizer._ollama_modelfile
    assert "im_start" not in tokenizer._ollama_modelfile
    assert "temperature" not in tokenizer._ollama_modelfile
    assert tokenizer._ollama_modelfile.count("PARAMETER stop") == 1
    assert f"PARAMETER stop {EOS}" in tokenizer._ollama_modelfile


@pytest.mark.parametrize(
    "template",
    [
        ALPACA,
        "{SYSTEM}\n\nQ: {INPUT}\nA: {OUTPUT}\n\n",
        "<|im_start|>user\n{INPUT}<|im_end|>\n<|im_start|>assistant\n{OUTPUT}<|im_end|>\n",
        'say "{INPUT}" {{x}} \'\\n\' """ {% if %}\n---\n{OUTPUT}',
    ],
)
def test_ids_masks_and_texts_agree(tokenizer: Any, template: str) -> None:
    rows = [{"messages": [dict(message) for message in _openai(talk(i))]} for i in range(3)]
    texts = apply_chat_template(rows, tokenizer, template)["text"]
    for row, text in zip(rows, texts, strict=True):
        encoded = encode_messages(tokenizer, row["messages"])
        assert encoded.ids == tokenizer.apply_chat_template(row["messages"], return_dict=False)
        assert encoded.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        learned = [tokenizer.decode(encoded.ids[start:stop]).lstrip(" ") for start, stop in encoded.trained]
        assert learned == [message["content"] + EOS for message in row["messages"] if message["role"] == "assistant"]


def test_the_usual_template_is_the_default(tokenizer: Any) -> None:
    assert apply_chat_template(ROWS, tokenizer)["text"][:] == apply_chat_template(ROWS, tokenizer, ALPACA)["text"][:]


@pytest.mark.parametrize("column", ["conversations", "messages"])
def test_both_dialects(tokenizer: Any, column: str) -> None:
    openai = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    texts = [
        apply_chat_template([{column: row}], tokenizer, "Q: {INPUT}\nA: {OUTPUT}")["text"][0]
        for row in (openai, sharegpt)
    ]
    assert texts == ["Q: Hi\nA: Ho" + EOS] * 2


def test_a_default_system_message(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = "{SYSTEM}\n\nQ: {INPUT}\nA: {OUTPUT}"
    assert apply_chat_template(ROWS, tokenizer, told)["text"][0].startswith(PREAMBLE + "\n\nQ: ")
    assert apply_chat_template(ROWS, tokenizer, told, "Be kind.")["text"][0].startswith("Be kind.\n\nQ: ")
    assert "Be kind." in tokenizer._ollama_modelfile
    own = [{"conversations": [{"from": "system", "value": "S"}, *ROWS[0]["conversations"]]}]
    assert apply_chat_template(own, tokenizer, told, "Be kind.")["text"][0].startswith("S\n\nQ: ")
    apply_chat_template(ROWS, tokenizer, ALPACA, "Be kind.")
    assert "the template has no {SYSTEM}" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"(?s)row 1: .* for the role system.*add \{SYSTEM\} to the template"):
        apply_chat_template(own, tokenizer, ALPACA)


def test_a_bundled_name_and_jinja(tokenizer: Any) -> None:
    by_name = apply_chat_template(ROWS, tokenizer, "chatml")["text"][:]
    assert by_name[0].startswith("<|im_start|>user\nHow many")
    starters = AutoTokenizer.from_pretrained(starter_path())
    assert apply_chat_template(ROWS, tokenizer, starters.chat_template)["text"][:] == by_name
    assert tokenizer.chat_template == starters.chat_template  # a Jinja text is kept as it is


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("Q: {input} A: {OUTPUT}", r"\{input\} is no field"),
        ("Q: {INPUT}\nA:", r"\{OUTPUT\} is missing"),
        ("chatmll", "chatml"),
        ("{% for message in messages %}", "chat_template, line 1"),
        ("", "chat_template=''"),
    ],
)
def test_a_template_that_cannot_be_read_changes_nothing(tokenizer: Any, template: str, what: str) -> None:
    before = tokenizer.chat_template
    with pytest.raises(DataError, match=what):
        apply_chat_template(ROWS, tokenizer, template)
    assert tokenizer.chat_template == before
    assert not hasattr(tokenizer, "_ollama_modelfile")


def test_rows_without_conversations_and_no_tokenizer(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no column holds conversations: q, a"):
        apply_chat_template([{"q": 1, "a": 2}], tokenizer)
    with pytest.raises(ModelError, match="no tokenizer was given"):
        apply_chat_template(ROWS)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        apply_chat_template(ROWS, tokenizer, ALPACA)
    with pytest.raises(WhetError, match="did you mean chat_template"):
        apply_chat_template(ROWS, tokenizer, chat_templat="x")


def test_template_and_extra_stops_survive_saving(tokenizer: Any, tmp_path: Path) -> None:
    apply_chat_template(ROWS, tokenizer, "Q: {INPUT}\n---\nA:\n{OUTPUT}\n---\n", extra_eos_tokens=["</s>", "Q:"])
    assert tokenizer._ollama_modelfile.splitlines()[-3:] == [f"PARAMETER stop {text}" for text in (EOS, "</s>", "Q:")]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    describe_template(again)
    assert again.chat_template == tokenizer.chat_template
    assert again._ollama_modelfile == tokenizer._ollama_modelfile
    apply_chat_template(ROWS, again, ALPACA)  # another template does not keep the old one's stops
    assert again._ollama_modelfile.count("PARAMETER stop") == 1


def test_the_same_bytes_for_every_hash_seed(tmp_path: Path) -> None:
    """And the same for a base model and an instruct model: only the user's template counts."""
    code = (
        "import sys; from transformers import AutoTokenizer; from whet import apply_chat_template, starter_path\n"
        "for name, own in (('Llama-3-8B', None), ('Llama-3-8B-Instruct', '{{ messages[0].content }}')):\n"
        "    t = AutoTokenizer.from_pretrained(starter_path()); t.name_or_path = name; t.chat_template = own\n"
        "    rows = [{'messages': [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]}]\n"
        "    apply_chat_template(rows, t, '{SYSTEM}\\n\\nQ: {INPUT}\\nA: {OUTPUT}', 'Kind.', ['</s>', 'Q:', '<|x|>'])\n"
        "    sys.stdout.write(t._ollama_modelfile + t.chat_template + '\\0')\n"
    )
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**variables, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in "012"
    ]
    printed = [run.communicate(timeout=120)[0] for run in runs]
    base, instruct, rest = printed[0].split("\0")
    assert base == instruct and not rest and "Q: {{ .Content }}" in base
    assert printed[1:] == printed[:1] * 2


# --- get_chat_template ---


def test_a_template_by_name(tokenizer: Any) -> None:
    assert get_chat_template(tokenizer, "alpaca") is tokenizer
    assert "### Response:" in tokenizer._ollama_modelfile
    with pytest.raises(DataError, match="chatml"):
        get_chat_template(tokenizer, "chatlm")


def test_messages_under_other_names(tokenizer: Any) -> None:
    get_chat_template(tokenizer, "chatml")
    plain, text = tokenizer._ollama_modelfile, tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], tokenize=False
    )  # fmt: skip
    get_chat_template(tokenizer, "chatml", mapping=SHAREGPT)
    for messages in (
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
    ):
        assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    assert tokenizer._ollama_modelfile == plain
    get_chat_template(tokenizer, "chatml", mapping={"user": "customer"})
    assert "user\nHi" in tokenizer.apply_chat_template([{"role": "customer", "content": "Hi"}], tokenize=False)
    with pytest.raises(DataError, match="mapping holds 'human'"):
        get_chat_template(tokenizer, "chatml", mapping={"human": "user"})


def test_the_end_token_ends_a_turn(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.eos_token = "<|endoftext|>"
    get_chat_template(tokenizer, "chatml")
    assert tokenizer.eos_token == "<|im_end|>"
    assert "the end token is now <|im_end|>" in capsys.readouterr().err
    get_chat_template(tokenizer, "gemma-2")  # no such token in this vocabulary
    assert tokenizer.eos_token == "<|im_end|>"
    assert "PARAMETER stop <|im_end|>" in tokenizer._ollama_modelfile
    assert "the vocabulary has no token <end_of_turn>" in capsys.readouterr().err
    get_chat_template(tokenizer, "gemma-2", map_eos_token=False)
    assert "PARAMETER stop <end_of_turn>" in tokenizer._ollama_modelfile


def test_a_system_message_of_ones_own(tokenizer: Any) -> None:
    get_chat_template(tokenizer, "chatml", system_message="Only SQL.")
    assert "Only SQL." in tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    with pytest.raises(DataError, match="no place for a default system message"):
        get_chat_template(tokenizer, "{{ messages[0].content }}", system_message="Only SQL.")


def test_a_pair_of_jinja_and_its_stop(tokenizer: Any) -> None:
    jinja = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | upper + '|' }}{% endfor %}"
    get_chat_template(tokenizer, (jinja, "|"))
    assert tokenizer.chat_template == jinja
    assert "PARAMETER stop |" in tokenizer._ollama_modelfile
    assert "TEMPLATE " not in tokenizer._ollama_modelfile  # it does more than pieces: never a stock one in its place


# --- train_on_responses_only ---


@pytest.fixture(scope="module")
def model() -> Any:
    return FastLanguageModel.from_pretrained("starter", max_seq_length=512)[0]


def trainer_of(model: Any, tokenizer: Any, rows: Any, folder: Path, **more: Any) -> Any:
    args = SFTConfig(output_dir=str(folder), report_to="none", max_steps=1, save_strategy="no")
    return SFTTrainer(model, tokenizer, args=args, train_dataset=rows, **more)


def trained(trainer: Any, items: Any = None) -> list[str]:
    """The trained text of each row."""
    found = []
    for item in items if items is not None else trainer.train_dataset:
        labels = item["labels"]
        found.append(trainer.text_tokenizer.decode(labels[labels != -100]))
    return sorted(found)


ANSWERS = sorted(f"There are {i}.\n\nYes.{EOS}" * 2 for i in range(6))


def test_texts_beside_their_conversations(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = apply_chat_template(ROWS, tokenizer, ALPACA)
    trainer = trainer_of(model, tokenizer, rows, tmp_path, eval_dataset=rows.select(range(2)))
    assert trainer.template_kind == "tokenizer"
    assert "### Instruction" in tokenizer._ollama_modelfile
    whole = [len(item["input_ids"]) for item in trainer.train_dataset]
    assert train_on_responses_only(trainer) is trainer
    assert trained(trainer) == ANSWERS
    assert trained(trainer, trainer.eval_dataset) == ANSWERS[:2]
    assert [len(item["input_ids"]) for item in trainer.train_dataset] == whole  # masked otherwise, the same tokens
    trainer.train()


@pytest.mark.parametrize("template", [ALPACA, "chatml", "{SYSTEM}\n\nQ: {INPUT}\n---\nA: {OUTPUT}\n\n"])
def test_texts_are_taken_apart_with_their_template(model: Any, tokenizer: Any, template: str, tmp_path: Path) -> None:
    texts = apply_chat_template(ROWS, tokenizer, template).select_columns(["text"])
    trainer = train_on_responses_only(trainer_of(model, tokenizer, texts, tmp_path))
    assert trainer.template_kind == "tokenizer"
    assert [text.replace(" There", "There") for text in trained(trainer)] == ANSWERS


def test_conversations_are_masked_as_such(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"q{EOS}"}, {"role": "assistant", "content": "a"}]}]
    trainer = train_on_responses_only(trainer_of(model, tokenizer, rows, tmp_path))
    assert trained(trainer) == ["a" + EOS]


def test_rows_in_a_frame_of_their_own(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"text": f"Below.\n\n### Input:\nnumber {i}\n\n### Response:\nit is {i}{EOS}"} for i in range(8)]
    trainer = trainer_of(model, tokenizer, rows, tmp_path)
    assert trainer.template_kind == "frame"
    assert trained(train_on_responses_only(trainer)) == sorted(f"it is {i}{EOS}" for i in range(8))


def test_rows_that_are_not_in_the_template(
    model: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = apply_chat_template(ROWS * 12, tokenizer, "chatml")["text"][:]
    rows = [{"text": text} for text in [*texts, "something else"]]
    trainer = train_on_responses_only(trainer_of(model, tokenizer, rows, tmp_path))
    assert len(trainer.train_dataset) == 72
    assert "1 of 73 rows not in the chat template" in capsys.readouterr().err
    noise = [{"text": "".join(chr(97 + (i * j) % 26) for j in range(20 + i))} for i in range(1, 12)]
    trainer = trainer_of(model, tokenizer, noise, tmp_path)
    before = trainer.train_dataset
    with pytest.raises(DataError, match=r"(?s)none of the 11 rows shows where.*The first row is:\n    abc"):
        train_on_responses_only(trainer)
    assert trainer.train_dataset is before


MARKERS = ("### Instruction:\n", "### Response:\n")


def test_markers_of_the_users_own(
    model: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = apply_chat_template(ROWS, tokenizer, ALPACA)["text"][:]
    rows = [{"text": text} for text in [*texts, "no marker", "### Response:\nalone"]]
    trainer = train_on_responses_only(trainer_of(model, tokenizer, rows, tmp_path), *MARKERS)
    assert trained(trainer) == sorted([*ANSWERS, "alone" + EOS])
    said = capsys.readouterr().err
    assert "1 of 8 rows without response_part" in said
    assert "2 of 8 rows without instruction_part" in said


def test_markers_in_conversations(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    trainer = trainer_of(model, tokenizer, [{"messages": _openai(row)} for row in ROWS], tmp_path)
    train_on_responses_only(trainer, "<|im_start|>user\n", "<|im_start|>assistant\n")
    assert trained(trainer) == ANSWERS


def _openai(row: dict[str, Any]) -> list[dict[str, str]]:
    names = {"human": "user", "gpt": "assistant"}
    return [{"role": names[m["from"]], "content": m["value"]} for m in row["conversations"]]


def test_it_never_masks_to_nothing_in_silence(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = apply_chat_template(ROWS, tokenizer, ALPACA)
    trainer = trainer_of(model, tokenizer, rows, tmp_path)
    before = trainer.train_dataset
    with pytest.raises(DataError) as caught:
        train_on_responses_only(trainer, "### Human:", "### Assistant:")
    assert "response_part '### Assistant:' is in none of the 6 rows" in str(caught.value)
    assert PREAMBLE[:40] in str(caught.value)
    with pytest.raises(DataError, match="is in 6 rows, with other white space around it"):
        train_on_responses_only(trainer, "### Instruction:", "### Response: ")
    with pytest.raises(DataError, match="an empty instruction_part"):
        train_on_responses_only(trainer, "", "### Response:")
    with pytest.raises(WhetError, match="both, or neither"):
        train_on_responses_only(trainer, response_part="### Response:")
    with pytest.raises(WhetError, match="whet's SFTTrainer"):
        train_on_responses_only(model)
    assert trainer.train_dataset is before


def test_preference_rows_are_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "chosen": "Ho", "rejected": "No"}]
    with pytest.raises(DataError, match="pairs of a better and a worse answer, and SFTTrainer cannot"):
        trainer_of(model, tokenizer, rows, tmp_path)


def test_a_column_of_texts_from_another_template_is_not_taken_for_its_own(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Conversations beside texts that somebody wrote otherwise prove nothing."""
    rows = [{**talk(i, 1), "text": f"### Q:\nHow many in {i}?\n\n### Answer:\n{i}{EOS}"} for i in range(8)]
    assert trainer_of(model, tokenizer, datasets.Dataset.from_list(rows), tmp_path).template_kind == "frame"
    assert "### Answer:" in json.dumps(tokenizer.chat_template)
