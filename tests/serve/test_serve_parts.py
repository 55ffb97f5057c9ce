"""The parts of the server that need no server: schemas, stops, tokens drawn in torch, the check of an export."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from whet.errors import ExportError
from whet.llamacpp import LlamaServer, available
from whet.models.load import load_for_inference
from whet.serve.cached import exported
from whet.serve.openai.jobs import Refused
from whet.serve.openai.request import ChatRequest, TextRequest, jobs_of, parse_request
from whet.serve.openai.schema import check_schema
from whet.serve.sampling import Sampling, sampling_body
from whet.serve.stops import StopFilter
from whet.serve.torch_tokens import drawn_tokens

needs_llamacpp = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")

KEPT: list[Any] = [
    {},
    {"type": "object"},
    {"type": ["string", "null"]},
    {"enum": ["a", 1, None]},
    {"const": {"a": 1}, "description": "any note"},
    {"type": "string", "pattern": r"^(?:[A-Z]{2,3}|x\.y)-[0-9]+$"},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "minimum": 1, "exclusiveMaximum": 7},
    {"type": "array", "items": {"$ref": "#/$defs/item"}, "maxItems": 3, "$defs": {"item": {"type": "number"}}},
    {"type": "array", "prefixItems": [{"type": "number"}, {"type": "boolean"}]},
    {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"a": {}}, "required": ["a"]}]},
    {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "integer"}},
]
BROKEN: list[tuple[Any, str]] = [
    (False, "a schema is an object"),
    ({"type": "integer", "multipleOf": 2}, "multipleOf"),
    ({"type": "number", "minimum": 2.5}, "minimum of number"),
    ({"type": "string", "format": "email"}, "email"),
    ({"type": "string", "pattern": "a+"}, "pattern"),
    ({"type": "string", "pattern": "^.*$"}, "pattern"),
    ({"type": "string", "pattern": "^(?=a)b$"}, "pattern"),
    ({"type": "string", "pattern": "^[^a]$"}, "pattern"),
    ({"type": "string", "pattern": "^(a$"}, "pattern"),
    ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "together"),
    ({"type": "object", "properties": {"a": {"not": {}}}}, "#/properties/a"),
    ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "required b"),
    ({"type": "object", "patternProperties": {}}, "patternProperties"),
    ({"anyOf": [{"type": "string"}], "minLength": 3}, "beside anyOf"),
    ({"allOf": [{"type": "string"}]}, "allOf"),
    ({"type": "array", "items": {"type": "thing"}}, "#/items"),
    ({"$defs": {"x": {"if": {}}}, "$ref": "#/$defs/x"}, r"#/\$defs/x"),
    ({"type": "object", "properties": ["a"]}, "no object"),
]


@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_schemas_that_are_kept(schema: Any) -> None:
    check_schema(schema)


@pytest.mark.parametrize(("schema", "named"), BROKEN, ids=str)
def test_schemas_that_an_answer_could_break(schema: Any, named: str) -> None:
    with pytest.raises(Refused, match=named):
        check_schema(schema)


def test_a_deep_schema() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    with pytest.raises(Refused, match="deeper"):
        check_schema(schema)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_stops_whatever_the_pieces(size: int) -> None:
    text = "SELECT a FROM b; -- end\n\nQuestion: c"
    for stops, expected in (
        (["\n\nQ", "none"], "SELECT a FROM b; -- end"),
        (["; --", " -- e"], "SELECT a FROM b"),
        (["Z"], text),
        ([], text),
        (["cd", "ce"], text),
    ):
        stop = StopFilter(stops)
        said = "".join(stop.push(text[start : start + size]) for start in range(0, len(text), size))
        assert said + ("" if stop.stopped else stop.rest()) == expected
        assert stop.stopped is (expected != text)


def _first(starter: Any, sampling: Sampling, count: int = 1) -> list[int]:
    ids = starter.chat_ids([{"role": "user", "content": "How many singers are there?"}])
    return [drawn.id for drawn in islice(drawn_tokens(starter.model, ids, count, sampling), count)]


def test_torch_draws_as_asked(starter: Any) -> None:
    greedy = _first(starter, Sampling(temperature=0), 8)
    assert _first(starter, Sampling(temperature=2, top_k=1), 8) == greedy
    assert _first(starter, Sampling(temperature=2, top_k=0, top_p=1e-6), 8) == greedy
    assert _first(starter, Sampling(temperature=2, top_k=0, top_p=1, min_p=1.0), 8) == greedy
    assert _first(starter, Sampling(temperature=0, logit_bias={greedy[0]: -100})) != greedy[:1]
    assert _first(starter, Sampling(temperature=0, logit_bias={77: 100}), 2) == [77, 77]
    repeated = _first(starter, Sampling(temperature=0, logit_bias={77: 100}, frequency_penalty=2), 4)
    assert repeated == [77] * 4, "2 a time does not outweigh 100"
    assert _first(starter, Sampling(temperature=0, logit_bias={77: 50}, presence_penalty=60), 2)[1] != 77


def test_torch_draws_the_distribution(starter: Any) -> None:
    """Shares of the first token over many seeds, against its probability (three standard errors)."""
    ids = starter.text_ids("SELECT")
    (drawn,) = drawn_tokens(starter.model, ids, 1, Sampling(temperature=0))
    probabilities_V = (drawn.logprobs_V / 1.5).softmax(dim=-1)
    tries = 150
    sampling = [Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed) for seed in range(tries)]
    counts = Counter(next(iter(drawn_tokens(starter.model, ids, 1, one))).id for one in sampling)
    for token in probabilities_V.topk(3).indices.tolist():
        expected = float(probabilities_V[token])
        assert abs(counts[token] / tries - expected) < 3 * (expected * (1 - expected) / tries) ** 0.5
    assert not torch.is_inference_mode_enabled()


@needs_llamacpp
def test_torch_and_llamacpp_cut_the_same_tokens_off(starter: Any, starter_gguf: Path) -> None:
    """The settings mean the same in both: only what is left by top_k, top_p and min_p is ever drawn."""
    ids = starter.text_ids("SELECT")
    kept = Sampling(temperature=3, top_k=12, top_p=0.6, min_p=0.05)
    with LlamaServer(starter_gguf, n_ctx=256, n_parallel=1) as server:
        theirs, ours = set(), set()
        for seed in range(60):
            body = sampling_body(Sampling(**{**kept.__dict__, "seed": seed}))
            theirs.add("".join(piece for piece, _ in server.stream_counted(ids, 1, body)))
            (drawn,) = drawn_tokens(starter.model, ids, 1, Sampling(**{**kept.__dict__, "seed": seed}))
            ours.add(starter.tokenizer.decode([drawn.id]))
    assert ours == theirs and 1 < len(ours) <= 12


def test_jobs_of_a_request() -> None:
    messages = b'[{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]'
    body = b'{"messages": ' + messages + b', "n": 2, "seed": 5, "stop": "x"}'
    jobs = jobs_of(parse_request(ChatRequest, body), 100, ["<end>"])
    assert [job.sampling.seed for job in jobs] == [5, 6] and jobs[0].max_tokens == 100
    assert jobs[0].stops == ["x", "<end>"] and jobs[0].prompt[0] == {"role": "system", "content": "a"}
    jobs = jobs_of(parse_request(TextRequest, b'{"prompt": [1, 2], "max_tokens": 3, "logprobs": 0}'), 100, ["<end>"])
    assert (jobs[0].prompt, jobs[0].max_tokens, jobs[0].stops, jobs[0].top_logprobs) == ([1, 2], 3, [], 0)
    for wrong in (b'{"prompt": []}', b'{"prompt": [""]}', b'{"prompt": [[]]}', b'{"prompt": [3000000000]}'):
        with pytest.raises(Refused):
            jobs_of(parse_request(TextRequest, wrong), 100)


@needs_llamacpp
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages | map(attribute='content') | join(' ') | wordwrap(9) }}", "cannot use"),
        ("{{ messages[-1].content | upper }}", "differently"),  # of the German sharp s
    ],
)
def test_a_template_that_llamacpp_writes_differently_is_not_served(
    template: str, reason: str, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_for_inference(str(tiny_llama_dir))
    tokenizer.chat_template = template
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ExportError, match=rf"{reason}[\s\S]*--backend torch"):
        exported(tmp_path / "model", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.gguf"))
