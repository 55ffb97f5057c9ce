"""OpenAI's requests, checked field by field (their API reference: /v1/chat/completions and /v1/completions).

A field that whet does not know is refused by its name: an option that is dropped without a word is an answer to
another question. Fields that only concern OpenAI's own service are taken and do nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whet.serve.openai.jobs import Job, Refused
from whet.serve.openai.schema import check_schema
from whet.serve.sampling import Sampling

MOST_ANSWERS = 32  # prompts times n
LARGEST_SCHEMA = 2**16  # bytes of JSON

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[int, Field(ge=1)]
LARGEST_ID = 2**31 - 1
Id = Annotated[int, Field(ge=0, le=LARGEST_ID)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """``stream_options``"""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None


class Common(_Strict):
    """The fields of both endpoints."""

    model: str | None = None
    max_tokens: Tokens | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class ChatRequest(Common):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class TextRequest(Common):
    """POST /v1/completions"""

    prompt: str | list[str] | list[Id] | list[list[Id]]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: None = None


Request = ChatRequest | TextRequest


def parse_request(kind: type[ChatRequest] | type[TextRequest], body: bytes) -> Any:
    """The request in a body.

    Raises:
        Refused: no JSON, a field that is wrong, or one that is not known.
    """
    try:
        given = json.loads(body)
        json.dumps(given, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise Refused("the body is no JSON object")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _first_problem(error) from error


def _first_problem(error: ValidationError) -> Refused:
    problem = error.errors(include_url=False, include_context=False)[0]
    place = problem["loc"]
    name = str(place[0]) if place else ""
    where = ".".join(str(part) for part in place if not _of_union(part))
    if problem["type"] == "extra_forbidden":
        return Refused(f"{where}: this server has no such parameter", code="unknown_parameter", param=where)
    if problem["type"] == "missing":
        return Refused(f"{where} is missing", code="missing_required_parameter", param=where)
    shown = json.dumps(problem["input"], default=str)[:80]
    return Refused(f"{where or name}: {problem['msg']}; got {shown}", code="invalid_value", param=where or name)


def _of_union(part: Any) -> bool:
    """pydantic names the branch of a union in the place: not a name that the client wrote."""
    return isinstance(part, str) and (part in ("str", "int", "float") or "[" in part or "-" in part)


def jobs_of(request: Request, limit: int, stops: Sequence[str] = ()) -> list[Job]:
    """One job for each answer that is asked for: the answers of the first prompt first.

    Args:
        limit: the longest answer that this server gives, in tokens; also where none is named.
        stops: of the model's own template.

    Raises:
        Refused: more than the server gives, or fields that contradict each other.
    """
    longest = _max_tokens(request)
    if longest is not None and longest > limit:
        raise Refused(
            f"max_tokens {longest:,} is more than this server's limit of {limit:,}",
            code="invalid_value",
            param="max_tokens",
        )
    own = [request.stop] if isinstance(request.stop, str) else list(request.stop or ())
    prompts = _chat_prompts(request) if isinstance(request, ChatRequest) else _text_prompts(request)
    count = request.n or 1
    if len(prompts) * count > MOST_ANSWERS:
        raise Refused(f"{len(prompts) * count} answers in one request; at most {MOST_ANSWERS}", param="n")
    sampling = _sampling(request)
    return [
        Job(
            prompt=prompt,
            max_tokens=longest or limit,
            sampling=_another(sampling, index),
            stops=[*own, *stops] if isinstance(request, ChatRequest) else own,
            top_logprobs=_top_logprobs(request),
            response_format=_response_format(request),
        )
        for prompt in prompts
        for index in range(count)
    ]


def _max_tokens(request: Request) -> int | None:
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens


def _sampling(request: Request) -> Sampling:
    named = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")
    given = {name: getattr(request, name) for name in named if getattr(request, name) is not None}
    bias = request.logit_bias or {}
    if any(not (token.isascii() and token.isdigit() and len(token) < 10) for token in bias):
        raise Refused("logit_bias: its keys are token ids", code="invalid_value", param="logit_bias")
    return Sampling(**given, logit_bias={int(token): value for token, value in bias.items()})


def _another(sampling: Sampling, index: int) -> Sampling:
    """With one seed for all, the answers of one prompt would be the same."""
    return sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + index) % 2**32)


def _top_logprobs(request: Request) -> int | None:
    if isinstance(request, TextRequest):
        return request.logprobs
    if request.top_logprobs is not None and not request.logprobs:
        raise Refused("top_logprobs needs logprobs: true", code="invalid_value", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _response_format(request: Request) -> dict[str, Any] | None:
    given = request.response_format if isinstance(request, ChatRequest) else None
    if given is None or given.get("type") == "text":
        return None
    wrong = Refused(
        'response_format: expected {"type": "text"}, {"type": "json_object"} or '
        '{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}',
        code="invalid_value",
        param="response_format",
    )
    if given.get("type") == "json_object":
        return {"type": "json_object"}
    inner = given.get("json_schema")
    if given.get("type") != "json_schema" or not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise wrong
    if len(json.dumps(inner["schema"])) > LARGEST_SCHEMA:
        raise Refused(
            f"the JSON schema has more than {LARGEST_SCHEMA:,} bytes", code="invalid_value", param="response_format"
        )
    check_schema(inner["schema"])
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": inner["schema"]}}


def _chat_prompts(request: ChatRequest) -> list[Any]:
    messages = []
    for index, message in enumerate(request.messages):
        content = message.content
        if content is None:
            raise Refused(f"messages.{index}.content is missing", param=f"messages.{index}.content")
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        messages.append({"role": "system" if message.role == "developer" else message.role, "content": text})
    if messages[-1]["role"] == "assistant":
        raise Refused("the last message is the assistant's: there is nothing to answer", param="messages")
    return [messages]


def _text_prompts(request: TextRequest) -> list[Any]:
    given: Any = request.prompt
    several = isinstance(given, list) and (not given or not isinstance(given[0], int))
    prompts = list(given) if several else [given]
    if not prompts or any(not prompt for prompt in prompts):
        raise Refused("the prompt is empty", code="invalid_value", param="prompt")
    return prompts
