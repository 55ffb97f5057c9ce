"""Log-probabilities of given answers against transformers' own loss, row by row."""

from __future__ import annotations

import pytest
import torch

from whet.data.records import ChatRecord, LabelRecord, PairRecord, PreferenceRecord, TextRecord
from whet.data.tokens import RecordEncoder
from whet.evaluate import likelihood
from whet.evaluate.examples import Example, example_of, prompt_ids
from whet.evaluate.likelihood import answer_logprobs
from whet.models.load import load_for_inference

USER, ANSWER = {"role": "user", "content": "How many orders?"}, {"role": "assistant", "content": "SELECT count(*)"}


@pytest.fixture(scope="module")
def starter():
    return load_for_inference("starter")


def _rows(tokenizer):
    examples = [
        Example(f"Question {'and so on ' * i}?\n", ({"role": "assistant", "content": "yes " * i + "no"},))
        for i in range(7)
    ]
    examples.append(Example((USER,), (ANSWER,)))
    return RecordEncoder(tokenizer)([example.record(example.expected) for example in examples])


@pytest.mark.parametrize("at_once", [1, 60, 100_000])
def test_batches_equal_one_by_one(starter, monkeypatch: pytest.MonkeyPatch, at_once: int):
    model, tokenizer = starter
    monkeypatch.setattr(likelihood, "TOKENS_AT_ONCE", at_once)
    rows = list(_rows(tokenizer))
    counts = []
    found = answer_logprobs(model, tokenizer, rows, counts.append)
    assert sum(counts) == len(rows)
    for row, value in zip(rows, found, strict=True):
        ids, labels = torch.tensor([row.ids]), torch.tensor([row.labels])
        with torch.inference_mode():
            loss = model(input_ids=ids, labels=labels).loss
        trained = int((labels[0, 1:] != -100).sum())
        assert trained and value == pytest.approx(-float(loss) * trained, abs=2e-3)


def test_examples_of_records():
    chat = ChatRecord(
        [{"role": "system", "content": "s"}, USER, ANSWER, USER, {"role": "assistant", "content": "last"}]
    )
    found = example_of(chat, 4)
    assert found.expected_text == "last" and len(found.prompt) == 4 and found.number == 4
    assert found.prompt_text.startswith("system: s\n\nuser: How many")
    pair = example_of(PreferenceRecord([USER], [ANSWER], [{"role": "assistant", "content": "no"}]))
    assert pair.expected_text == "SELECT count(*)" and pair.rejected and pair.prompt_text == "How many orders?"
    assert example_of(LabelRecord([USER], [ANSWER], False)).expected == ()
    assert example_of(PairRecord("p", "")).expected_text is None
    halves = example_of(TextRecord("one two  three four"))
    assert (halves.prompt, halves.expected_text) == ("one two", "  three four")
    assert isinstance(example_of(TextRecord("one")), str) and isinstance(example_of(ChatRecord([USER])), str)


def test_a_prompt_is_what_stands_before_the_answer(starter):
    _, tokenizer = starter
    encode = RecordEncoder(tokenizer)
    chat = Example(
        ({"role": "system", "content": "Be short."}, USER, ANSWER, USER), ({"role": "assistant", "content": "ok"},)
    )
    for example in (chat, Example("Tables: a\nSQL:\n", (ANSWER,)), Example("Tables: a\nSQL: ", (ANSWER,))):
        row = encode([example.record(example.expected)])[0]
        ids = prompt_ids(tokenizer, example)
        assert row.ids[: len(ids)] == ids and [a for a, _ in row.trained] == [len(ids)]
