"""``model.generate`` by whet's decoder: transformers' arguments, transformers' tensor."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, TextStreamer

from whet import FastLanguageModel
from whet.engine.attached import forget
from whet.evaluate import generate as answers
from whet.evaluate.generate import greedy_config, greedy_ids
from whet.evaluate.model_generate import bind, unbind
from whet.evaluate.prompts import text_ids
from whet.models.adapters import add_lora
from whet.models.load import load_for_inference

TEXTS = ["SELECT name FROM", "List", "How many orders were shipped in March? " * 4]


@pytest.fixture(scope="module")
def adapted():
    """The starter in float32 with a random adapter."""
    model, tokenizer = load_for_inference("starter")
    model = add_lora(model.float(), rank=4, alpha=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return model.eval(), tokenizer


@pytest.fixture(autouse=True)
def _notes_again():
    answers.say_once.cache_clear()


def padded(tokenizer):
    rows = [text_ids(tokenizer, text) for text in TEXTS]
    width = max(map(len, rows))
    ids = torch.tensor([[3] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def both(model, *args, **kwargs):
    """transformers' result and whet's."""
    own = type(model).generate(model, *args, **kwargs)
    bind(model)
    try:
        return own, model.generate(*args, **kwargs)
    finally:
        unbind(model)


def test_padded_rows_and_their_ends_are_transformers(adapted, capsys):
    model, tokenizer = adapted
    own, found = both(model, **padded(tokenizer), max_new_tokens=24, do_sample=False)
    assert torch.equal(found, own)
    ends = {int(own[0, -3]), int(own[1, -6])}  # tokens that appear: rows end early, and are filled
    own, found = both(model, **padded(tokenizer), max_new_tokens=24, eos_token_id=sorted(ends), pad_token_id=3)
    assert torch.equal(found, own) and bool((own[:, -1] == 3).any())
    config = greedy_config(12, [2], 3)
    own, found = both(model, padded(tokenizer)["input_ids"][2:], generation_config=config)
    assert torch.equal(found, own)
    own, found = both(model, **padded(tokenizer), max_new_tokens=16, repetition_penalty=1.5)
    assert torch.equal(found, own)
    assert "transformers generates" not in capsys.readouterr().err


def test_the_streamer_says_what_is_returned(adapted, capsys):
    model, tokenizer = adapted
    ids = padded(tokenizer)["input_ids"][2:]
    texts = []
    for bound in (False, True):
        if bound:
            bind(model)
        capsys.readouterr()
        model.generate(ids, streamer=TextStreamer(tokenizer, skip_prompt=True), max_new_tokens=20)
        texts.append(capsys.readouterr().out)
    unbind(model)
    assert texts[0] == texts[1] and len(texts[0]) > 10


def test_sampling_follows_torch_s_seed(adapted):
    model, tokenizer = adapted
    bind(model)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        settings = {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "min_p": 0.01}
        drawn.append(model.generate(**padded(tokenizer), max_new_tokens=12, **settings))
    unbind(model)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"return_dict_in_generate": True, "output_scores": True}, "return_dict_in_generate=True"),
        ({"logits_processor": LogitsProcessorList([lambda ids, scores: scores])}, "logits_processor"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences=2"),
        ({"max_new_tokens": None, "max_length": 60}, "no max_new_tokens"),
    ],
)
def test_what_the_decoder_does_not_do_goes_to_transformers(adapted, capsys, settings, reason):
    model, tokenizer = adapted
    torch.manual_seed(0)
    own = type(model).generate(model, **padded(tokenizer), **{"max_new_tokens": 5, **settings})
    bind(model)
    torch.manual_seed(0)
    found = model.generate(**padded(tokenizer), **{"max_new_tokens": 5, **settings})
    unbind(model)
    sequences = [made if isinstance(made, torch.Tensor) else made.sequences for made in (own, found)]
    assert torch.equal(*sequences)
    said = capsys.readouterr().err
    assert reason in said and "transformers generates, not whet's decoder" in said


def test_padding_at_the_right_is_left_to_transformers(adapted, capsys):
    model, tokenizer = adapted
    rows = padded(tokenizer)
    turned = {name: values.flip(1) for name, values in rows.items()}
    own, found = both(model, **turned, max_new_tokens=4)
    assert torch.equal(own, found)
    assert "padding stands elsewhere" in capsys.readouterr().err


def test_switched_off_and_merged_adapters_count(adapted):
    model, tokenizer = adapted
    whole, _ = both(model, **padded(tokenizer), max_new_tokens=16)
    with model.disable_adapter():
        base, found = both(model, **padded(tokenizer), max_new_tokens=16)
    assert torch.equal(base, found) and not torch.equal(base, whole)
    model.merge_adapter()
    merged, found = both(model, **padded(tokenizer), max_new_tokens=16)
    model.unmerge_adapter()
    assert torch.equal(merged, found)


def test_answers_of_a_model_that_is_not_taken_are_the_same_and_it_is_said(adapted, capsys):
    model, tokenizer = adapted
    prompts = [text_ids(tokenizer, text) for text in TEXTS]
    wanted = greedy_ids(model, tokenizer, prompts, 12, batch_size=2)
    layer = model.base_model.model.model.layers[0]
    layer.extra_proj = torch.nn.Linear(2, 2)  # a part that nothing uses
    forget(model)  # the decoder that was compared without it
    counts: list[int] = []
    found = greedy_ids(model, tokenizer, prompts, 12, batch_size=2, on_done=counts.append)
    del layer.extra_proj
    assert found == wanted and counts == [2, 1]
    assert "extra_proj" in capsys.readouterr().err


def test_for_inference_binds_and_for_training_unbinds():
    model, tokenizer = FastLanguageModel.from_pretrained("starter", dtype=torch.float32)
    own = type(model).generate
    FastLanguageModel.for_inference(model)
    assert model.generate.__func__ is not own and type(model).generate is own
    prompt = tokenizer("SELECT", return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=4)
    assert torch.equal(made, own(model, **prompt, max_new_tokens=4))
    FastLanguageModel.for_training(model)
    assert model.generate.__func__ is own


def test_the_model_s_own_generation_config_counts(adapted):
    model, tokenizer = adapted
    before = model.generation_config
    model.generation_config = GenerationConfig(max_new_tokens=7, repetition_penalty=1.3, pad_token_id=3)
    own, found = both(model, **padded(tokenizer))
    model.generation_config = before
    assert torch.equal(own, found)
