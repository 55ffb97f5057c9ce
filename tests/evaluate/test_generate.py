"""Batched greedy answers against one-by-one generation, on the starter in float32."""

from __future__ import annotations

import pytest
import torch

from whet.errors import DataError, ModelError
from whet.evaluate.generate import greedy_answers, greedy_completions, greedy_config, greedy_ids, until_stop
from whet.evaluate.prompts import chat_ids, context_limit, fit_to_context, stop_ids, text_ids
from whet.models.load import load_for_inference
from whet.sample.rows import heldout_rows

NEAR = 0.01  # logits: closer than this, float rounding may choose either token
QUESTIONS = [row.question for row in heldout_rows()[:8]]
RAGGED = ["Hi", *QUESTIONS, "List every name. " * 20, "二" * 30, "SELECT"]


@pytest.fixture(scope="module")
def starter():
    model, tokenizer = load_for_inference("starter")
    return model.float().eval(), tokenizer


def _chats(texts):
    return [[{"role": "user", "content": text}] for text in texts]


def _alone(model, stops, prompt, max_new_tokens):
    config = greedy_config(max_new_tokens, stops, 3)
    made = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config)
    return until_stop(made[0, len(prompt) :].tolist(), stops)


def _two_best_are_near(model, ids):
    with torch.inference_mode():
        best = model(torch.tensor([ids])).logits[0, -1].topk(2).values
    return float(best[0] - best[1]) <= NEAR


def test_batches_equal_one_by_one_on_ragged_prompts(starter):
    model, tokenizer = starter
    prompts = [chat_ids(tokenizer, chat) for chat in _chats(RAGGED)] + [text_ids(tokenizer, text) for text in RAGGED]
    assert len({len(prompt) for prompt in prompts}) > 10
    stops = stop_ids(model, tokenizer)
    same = 0
    for prompt, batched in zip(prompts, greedy_ids(model, tokenizer, prompts, 16, batch_size=5), strict=True):
        alone = _alone(model, stops, prompt, 16)
        first = next((i for i, pair in enumerate(zip(alone, batched, strict=False)) if pair[0] != pair[1]), None)
        if first is None:
            first = None if len(alone) == len(batched) else min(len(alone), len(batched))
        same += first is None
        assert first is None or _two_best_are_near(model, prompt + alone[:first])
    assert same >= len(prompts) - 2


def test_answers_end_at_the_turn_and_hold_no_special_token(starter):
    model, tokenizer = starter
    counts = []
    answers = greedy_answers(
        model, tokenizer, _chats(QUESTIONS[:5]), max_new_tokens=60, batch_size=2, on_done=counts.append
    )
    assert sum(counts) == 5
    assert all(answers) and not any("<|" in answer for answer in answers)
    ids = greedy_ids(model, tokenizer, [chat_ids(tokenizer, chat) for chat in _chats(QUESTIONS[:5])], 60)
    assert any(len(answer) < 60 for answer in ids)  # some ended by themselves


def test_plain_prompts_are_continued(starter):
    model, tokenizer = starter
    text = "SELECT name FROM"
    (answer,) = greedy_completions(model, tokenizer, [text], max_new_tokens=8)
    whole = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(whole[0], skip_special_tokens=True) == text + answer


def test_training_mode_and_padding_side_stay(starter):
    model, tokenizer = starter
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    side = tokenizer.padding_side
    greedy_answers(model, tokenizer, _chats(["Hi", "Hello there"]), max_new_tokens=2)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(DataError):
        greedy_ids(model, tokenizer, [[5], []], 2)
    assert [module.training for module in model.modules()] == before
    assert tokenizer.padding_side == side
    model.eval()


def test_the_turn_end_of_the_template_stops_a_model_with_another_end_token(starter):
    model, tokenizer = starter
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    _, other = load_for_inference("starter")
    other.eos_token = "<|endoftext|>"
    assert other.eos_token_id != end
    assert end in stop_ids(model, other)


def test_no_chat_template_is_said(starter):
    model, _ = starter
    _, bare = load_for_inference("starter")
    bare.chat_template = None
    with pytest.raises(ModelError, match="chat template"):
        greedy_answers(model, bare, _chats(["Hi"]), max_new_tokens=2)
    assert greedy_completions(model, bare, ["Hi"], max_new_tokens=2)


def test_what_does_not_fit_is_shortened_and_said(starter, capsys):
    model, tokenizer = starter
    assert context_limit(model, tokenizer) == 2048
    prompts, room = fit_to_context([[1, 2, 3], list(range(200))], 40, 100)
    assert room == 40 and prompts == [[1, 2, 3], list(range(140, 200))]
    assert fit_to_context([[1]], 5000, 100) == ([[1]], 50)
    said = capsys.readouterr().err
    assert "1 of 2 prompts" in said and "limited to 50 tokens" in said
    assert greedy_ids(model, tokenizer, [], 5) == []
