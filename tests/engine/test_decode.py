"""The decoder: every family against the engine's packed forward and against transformers' generate; batches."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, VOCAB, lora_model, plain_model

from whet.engine.decode import Decoder
from whet.engine.forward import Engine
from whet.engine.generate import Options, generate, logits_after, stream
from whet.engine.sampling import Sampling
from whet.engine.spec import Unsupported
from whet.errors import DataError, ModelError

LENGTHS = (3, 1, 9, 17, 5, 30)


def prompts_of(lengths, seed=1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (int(n),), generator=generator).tolist() for n in lengths]


def decoder_of(model) -> Decoder:
    decoder = Decoder.attach(model)
    assert not isinstance(decoder, Unsupported), decoder
    return decoder


def own_greedy(model, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return made[0, len(prompt) :].tolist()


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers_and_of_each_prompt_alone(family, nf4):
    model = lora_model(family, torch.float32, nf4=nf4)
    decoder = decoder_of(model)
    prompts = prompts_of(LENGTHS)
    together = generate(decoder, prompts, Options(20))
    assert together == [own_greedy(model, prompt, 20) for prompt in prompts]
    assert together[2:4] == [generate(decoder, [prompt], Options(20))[0] for prompt in prompts[2:4]]


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "phi3_partial"])
def test_logits_are_those_of_the_packed_forward_in_float64(family):
    """Token by token over a poisoned cache, past the windows and over the end of a chunk of keys."""
    model = lora_model(family)
    decoder = decoder_of(model)
    ids = torch.tensor(prompts_of([73])[0])
    cache = decoder.cache(4, 80)
    found = [decoder.prefill([ids[:9].tolist()], [2], cache)]
    positions = torch.zeros(4, dtype=torch.int64)
    for at in range(9, 72):
        positions[2] = at
        found.append(decoder.step(ids[at].repeat(4), positions, cache, at + 1)[2:3])
    logits = model.get_base_model().lm_head(engine_of(model).hidden(ids[None], torch.arange(73)[None])[8:72])
    cap = decoder.spec.logit_softcap
    wanted = logits if cap is None else cap * torch.tanh(logits / cap)
    torch.testing.assert_close(torch.cat(found), wanted.detach(), rtol=1e-10, atol=1e-10)


def engine_of(model) -> Engine:
    engine = Engine.attach(model)
    assert not isinstance(engine, Unsupported), engine
    return engine


def test_two_hundred_ragged_prompts_give_what_each_gives_alone():
    """Bit by bit: the log-probabilities too. Slots that end early take the next prompt."""
    decoder = decoder_of(lora_model("llama", torch.float32))
    generator = torch.Generator().manual_seed(5)
    prompts = prompts_of(torch.randint(1, 70, (200,), generator=generator).tolist())
    options = Options(12, stops=frozenset(range(10)), logprobs=True)

    def tokens(some):
        found = [[] for _ in some]
        for step in stream(decoder, some, options):
            for token in step:
                found[token.prompt].append((token.id, token.logprob, token.last))
        return found

    together = tokens(prompts)
    assert len({len(answer) for answer in together}) > 5  # many ended by themselves
    assert all([last for *_, last in answer] == [False] * (len(answer) - 1) + [True] for answer in together)
    assert together == [tokens([prompt])[0] for prompt in prompts]


def test_drawn_tokens_do_not_depend_on_the_batch_and_follow_the_distribution():
    decoder = decoder_of(plain_model("llama", torch.float32))
    prompts = prompts_of((4, 9, 2))
    sampling = Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.2, seed=7)
    together = generate(decoder, prompts, Options(10, sampling=sampling))
    assert together == generate(decoder, prompts, Options(10, sampling=sampling, slots=1))
    other = Sampling(temperature=0.8, seed=8)
    assert together != generate(decoder, prompts, Options(10, sampling=other))
    many = generate(decoder, [prompts[0]] * 2000, Options(1, sampling=Sampling(temperature=1.0, seed=1)))
    counts = torch.bincount(torch.tensor(many)[:, 0], minlength=VOCAB) / 2000
    cache = decoder.cache(4, 8)
    wanted = decoder.prefill([prompts[0]], [0], cache)[0].softmax(-1)
    assert float((counts - wanted).abs().max()) < 0.05  # four standard deviations of the likeliest are 0.045


def test_an_adapter_is_seen_at_once_and_another_state_is_noticed():
    model = lora_model("llama", torch.float32)
    decoder = decoder_of(model)
    prompts = prompts_of((6, 3))
    before = generate(decoder, prompts, Options(15))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(-3)
    assert decoder.still_fits()
    after = generate(decoder, prompts, Options(15))
    assert after != before and after == [own_greedy(model, prompt, 15) for prompt in prompts]
    with model.disable_adapter():
        assert not decoder.still_fits()
    assert decoder.still_fits()


def test_dropout_and_trained_weights_do_not_matter():
    model = lora_model("llama", torch.float32, lora_dropout=0.1)
    model.base_model.model.model.norm.weight.requires_grad_(True)
    decoder = decoder_of(model.eval())
    (prompt,) = prompts_of((6,))
    assert generate(decoder, [prompt], Options(15)) == [own_greedy(model, prompt, 15)]


def test_what_is_not_taken_is_said():
    model = plain_model("llama", torch.float32)
    with torch.no_grad():
        rotary = model.model.layers[0]
        rotary.self_attn.scaling = 7.0
        rotary.self_attn.is_causal = False
    found = Decoder.attach(model)
    assert isinstance(found, Unsupported) and "causal" in found.reason


def test_a_rotation_that_changes_with_the_length_is_refused_beyond_it():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    decoder = decoder_of(plain_model("llama", torch.float32, rope_parameters=rope, max_position_embeddings=512))
    assert generate(decoder, prompts_of((5,)), Options(4))
    with pytest.raises(ModelError, match="rotation"):
        generate(decoder, prompts_of((5,)), Options(600))


def test_bad_requests_are_refused():
    decoder = decoder_of(plain_model("llama", torch.float32))
    with pytest.raises(DataError, match="prompt 1 is empty"):
        generate(decoder, [[5], []], Options(3))
    with pytest.raises(DataError, match="max_new_tokens"):
        generate(decoder, [[5]], Options(0))
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0.0)
    assert generate(decoder, [], Options(3)) == []


def test_a_cache_that_is_full_grows(monkeypatch):
    decoder = decoder_of(lora_model("llama", torch.float32))
    prompts = prompts_of((60, 3))
    wanted = generate(decoder, prompts, Options(150))
    steps = logits_after(decoder, prompts[0], 150)
    alone = [int(next(steps).argmax())]
    for _ in range(149):
        alone.append(int(steps.send(alone[-1]).argmax()))
    monkeypatch.setattr("whet.engine.generate.ROOM", 4)
    decoder.kept = None
    assert generate(decoder, prompts, Options(150)) == wanted and wanted[0] == alone
    steps = logits_after(decoder, prompts[0], 150)
    again = [int(next(steps).argmax())]
    for _ in range(149):
        again.append(int(steps.send(again[-1]).argmax()))
    assert again == alone
    with pytest.raises(StopIteration):
        steps.send(again[-1])


def test_a_stream_may_be_left_and_two_run_side_by_side():
    decoder = decoder_of(plain_model("llama", torch.float32))
    first, second = prompts_of((8, 13))
    wanted = [generate(decoder, [prompt], Options(9))[0] for prompt in (first, second)]
    left = stream(decoder, [first], Options(9))
    next(left)
    left.close()
    pair = zip(stream(decoder, [first], Options(9)), stream(decoder, [second], Options(9)), strict=True)
    found = [[a[0].id, b[0].id] for a, b in pair]
    assert [list(column) for column in zip(*found, strict=True)] == wanted


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "phi3_partial"])
def test_on_a_gpu_tokens_are_those_of_transformers(family):
    decoder = decoder_of(lora_model(family, torch.float32).cuda())
    prompts = prompts_of(LENGTHS)
    cpu = lora_model(family, torch.float32)
    wanted = [own_greedy(cpu, prompt, 20) for prompt in prompts]
    for slots in (1, 2, 64):
        assert generate(decoder, prompts, Options(20, slots=slots)) == wanted
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=3)
    drawn = generate(decoder, prompts, Options(20, sampling=sampling, slots=4))
    assert drawn == generate(decoder, prompts, Options(20, sampling=sampling, slots=4))
