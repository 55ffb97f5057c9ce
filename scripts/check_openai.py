"""Check `whet serve` with the official `openai` client: what clients rely on, one check after the other.

    python scripts/check_openai.py [PATH]

PATH is what `whet serve` takes (default: starter). Two servers are started on free ports: a plain one, and a narrow one
with a key, one slot and a short time limit. Exit code 1 where a check fails.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
from openai_server import ASKED, Server, refused, serving, streamed, until_idle

KEY = "a-key-of-this-check"
WIDE = ["--parallel", "4", "--body-mb", "0.1"]
NARROW = ["--parallel", "1", "--waiting", "40", "--seconds", "4", "--api-key", KEY]
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}, "ids": {"type": "array", "maxItems": 2}},
    "required": ["answer"],
    "additionalProperties": False,
}

Check = Callable[[Server, Server], None]


def models_are_listed(wide: Server, narrow: Server) -> None:
    """The model is in the list, and by its name."""
    (card,) = wide.client.models.list().data
    assert card.id == wide.model and card.object == "model"
    assert wide.client.models.retrieve(wide.model).id == wide.model


def an_unknown_model_is_404(wide: Server, narrow: Server) -> None:
    """Another model's name is an error, in requests and in the list."""
    assert refused(openai.NotFoundError, lambda: wide.chat(model="gpt-9")).code == "model_not_found"
    refused(openai.NotFoundError, lambda: wide.client.models.retrieve("gpt-9"))


def chat_has_openais_shape(wide: Server, narrow: Server) -> None:
    """Id, object, model, role, usage."""
    answer = wide.chat()
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == wide.model
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.prompt_tokens > 5
    assert 0 < usage.completion_tokens <= 16


def temperature_0_repeats_itself(wide: Server, narrow: Server) -> None:
    """Two greedy answers are the same, whatever ran in between."""
    first = wide.chat().choices[0].message.content
    wide.text(prompt="Another text")
    assert wide.chat().choices[0].message.content == first


def max_tokens_cuts_the_answer(wide: Server, narrow: Server) -> None:
    """Exactly so many tokens, and the reason "length"."""
    for name in ("max_tokens", "max_completion_tokens"):
        answer = wide.chat(**{"max_tokens": openai.NOT_GIVEN, name: 3})
        assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def an_answer_ends_by_itself(wide: Server, narrow: Server) -> None:
    """The end token ends it with "stop" and is no part of the text."""
    answer = wide.chat(max_tokens=200)
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens < 200
    assert "<|" not in answer.choices[0].message.content


def a_stream_says_what_the_whole_answer_says(wide: Server, narrow: Server) -> None:
    """Joined chunks are the answer; the first names the role; the last the reason."""
    text, finish, chunks = streamed(wide.chat(stream=True, max_tokens=40))
    whole = wide.chat(max_tokens=40).choices[0]
    assert text == whole.message.content and finish == whole.finish_reason
    assert chunks[0].choices[0].delta.role == "assistant" and len(chunks) > 5
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def a_stream_tells_usage_when_asked(wide: Server, narrow: Server) -> None:
    """One more chunk without choices; none without the option."""
    *_, last = wide.chat(stream=True, stream_options={"include_usage": True})
    usage = wide.chat().usage
    assert not last.choices and last.usage.completion_tokens == usage.completion_tokens
    assert last.usage.prompt_tokens == usage.prompt_tokens
    assert all(chunk.usage is None for chunk in wide.chat(stream=True))


def stop_texts_end_an_answer(wide: Server, narrow: Server) -> None:
    """One text or several; what ends the answer is no part of it."""
    whole = wide.chat(max_tokens=40).choices[0].message.content
    middle = whole[len(whole) // 2 :][:2]
    expected = whole[: whole.index(middle)]
    for stop in (middle, ["never said", middle]):
        answer = wide.chat(max_tokens=40, stop=stop).choices[0]
        assert answer.message.content == expected and answer.finish_reason == "stop"


def stop_texts_end_a_stream(wide: Server, narrow: Server) -> None:
    """Nothing of a stop text slips out in a chunk."""
    whole = wide.chat(max_tokens=40).choices[0].message.content
    middle = whole[len(whole) // 2 :][:3]
    text, finish, _ = streamed(wide.chat(stream=True, max_tokens=40, stop=[middle]))
    assert text == whole[: whole.index(middle)] and finish == "stop"


def a_seed_repeats_an_answer(wide: Server, narrow: Server) -> None:
    """The same seed: the same text. Other seeds: not all the same."""
    said = [wide.text(temperature=1.5, seed=seed).choices[0].text for seed in (7, 7, 8, 9, 10)]
    assert said[0] == said[1] and len(set(said)) > 1


def several_answers(wide: Server, narrow: Server) -> None:
    """n choices, numbered; the prompt counts once, every answer's tokens count."""
    answer = wide.chat(n=3, temperature=1.2, max_tokens=5, logit_bias={})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    one = wide.chat(max_tokens=5).usage
    assert answer.usage.prompt_tokens == one.prompt_tokens and answer.usage.completion_tokens > one.completion_tokens


def several_streamed_answers(wide: Server, narrow: Server) -> None:
    """The chunks of n choices carry their numbers, and each ends."""
    chunks = [chunk.choices[0] for chunk in wide.chat(n=3, stream=True, temperature=1.0, max_tokens=4)]
    assert {choice.index for choice in chunks} == {0, 1, 2}
    assert sum(choice.finish_reason is not None for choice in chunks) == 3


def chat_logprobs(wide: Server, narrow: Server) -> None:
    """One entry a token, with alternatives; the greedy token is the best of them; the bytes are the text's."""
    choice = wide.chat(logprobs=True, top_logprobs=3, max_tokens=8).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 8 and all(len(entry.top_logprobs) == 3 for entry in entries)
    for entry in entries:
        assert entry.logprob <= 0 and entry.logprob == max(other.logprob for other in entry.top_logprobs)
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content


def streamed_logprobs_are_those_of_the_whole(wide: Server, narrow: Server) -> None:
    """The same tokens and numbers come in the chunks."""
    whole = wide.chat(logprobs=True, top_logprobs=0, max_tokens=8).choices[0].logprobs.content
    _, _, chunks = streamed(wide.chat(logprobs=True, stream=True, max_tokens=8))
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    entries = [entry for part in parts if part is not None for entry in part.content]
    assert [entry.token for entry in entries] == [entry.token for entry in whole]
    assert max(abs(a.logprob - b.logprob) for a, b in zip(entries, whole, strict=True)) < 0.02


def a_schema_holds(wide: Server, narrow: Server) -> None:
    """Whatever is asked, at any temperature, the JSON is one of the schema."""
    form = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        answer = wide.chat(response_format=form, max_tokens=400, temperature=1.0, seed=seed).choices[0]
        assert answer.finish_reason == "stop", answer
        said = json.loads(answer.message.content)
        assert said["answer"] in ("yes", "no") and set(said) <= {"answer", "ids"} and len(said.get("ids", ())) <= 2


def json_mode_and_a_streamed_schema(wide: Server, narrow: Server) -> None:
    """json_object gives an object; a schema holds in a stream too."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    text, finish, _ = streamed(wide.chat(response_format=form, stream=True, max_tokens=200))
    assert finish == "stop" and isinstance(json.loads(text), int)
    answer = wide.chat(response_format={"type": "json_object"}, max_tokens=30, seed=1).choices[0]
    assert answer.message.content.lstrip().startswith("{")


def a_bad_schema_is_refused(wide: Server, narrow: Server) -> None:
    """A schema that cannot be kept is an error, never an answer without it."""
    for schema in (
        {"type": "nonsense"},
        {"$ref": "https://example.com/x.json"},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "string", "pattern": "(["},
        {"type": "string", "minLength": 1_000_000},
        {"type": "integer", "multipleOf": 7},
        {"not": {"type": "string"}},
    ):
        form = {"type": "json_schema", "json_schema": {"name": "bad", "schema": schema}}
        refused(openai.BadRequestError, lambda form=form: wide.chat(response_format=form))  # type: ignore[misc]
    refused(openai.BadRequestError, lambda: wide.chat(response_format={"type": "yaml"}))


def text_completions(wide: Server, narrow: Server) -> None:
    """Their own shape, with a stream that says the same."""
    answer = wide.text()
    assert answer.object == "text_completion" and answer.choices[0].finish_reason in ("stop", "length")
    chunks = list(wide.text(stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason


def text_logprobs(wide: Server, narrow: Server) -> None:
    """The older form: parallel lists."""
    choice = wide.text(logprobs=2, max_tokens=6).choices[0]
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text and len(told.token_logprobs) == len(told.text_offset) == 6
    assert all(len(best) == 2 for best in told.top_logprobs) and told.text_offset[0] == 0


def many_prompts_in_one_request(wide: Server, narrow: Server) -> None:
    """Texts, or token ids; each gives what it gives alone."""
    both = wide.text(prompt=["SELECT", "The capital"], max_tokens=6)
    alone = [wide.text(prompt=prompt, max_tokens=6).choices[0].text for prompt in ("SELECT", "The capital")]
    assert [choice.text for choice in both.choices] == alone
    assert wide.text(prompt=[[5, 6, 7], [8, 9]], max_tokens=2).choices[1].index == 1


def a_conversation_is_read_whole(wide: Server, narrow: Server) -> None:
    """System and earlier turns make the prompt longer; text parts are joined."""
    turns: Any = [
        {"role": "system", "content": "You write SQL."},
        {"role": "user", "content": "Höher als 3? 分类 🙂"},
        {"role": "assistant", "content": "SELECT 1"},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "then?"}]},
    ]
    plain = [*turns[:3], {"role": "user", "content": "And then?"}]
    long, same = wide.chat(messages=turns), wide.chat(messages=plain)
    assert long.usage.prompt_tokens == same.usage.prompt_tokens > wide.chat().usage.prompt_tokens
    assert long.choices[0].message.content == same.choices[0].message.content


def logit_bias_acts(wide: Server, narrow: Server) -> None:
    """The token that comes first does not come when it is banned."""
    first = wide.chat(max_tokens=1, logprobs=True).choices[0].message.content
    ids = range(300, 330)
    forced = wide.chat(max_tokens=1, logit_bias={str(number): 100 for number in ids}).choices[0].message.content
    banned = wide.chat(max_tokens=1, logit_bias={str(number): -100 for number in range(2000)})
    assert forced and banned.choices[0].message.content != first


def wrong_values_are_named(wide: Server, narrow: Server) -> None:
    """400 with the field's name; nothing is dropped without a word."""
    wrong: list[dict[str, Any]] = [
        {"temperature": 3},
        {"top_p": 0},
        {"max_tokens": 0},
        {"n": 0},
        {"stop": [""]},
        {"messages": []},
        {"messages": [{"role": "alien", "content": "?"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"top_logprobs": 3},
        {"logit_bias": {"-1": 1}},
        {"seed": 10**30},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"extra_body": {"grammar": "root ::= 'a'"}},
    ]
    for options in wrong:
        (name,) = options.get("extra_body", options)
        error = refused(openai.BadRequestError, lambda options=options: wide.chat(**options))  # type: ignore[misc]
        assert str(error.param).startswith(name), (name, error.param)


def too_many_tokens_are_refused(wide: Server, narrow: Server) -> None:
    """More than the limit, or a prompt that does not fit: the numbers are in the message."""
    card: Any = wide.client.models.retrieve(wide.model)
    refused(openai.BadRequestError, lambda: wide.chat(max_tokens=card.max_tokens + 1))
    long = "fox " * (card.context + 1)
    error = refused(openai.BadRequestError, lambda: wide.text(prompt=long))
    assert error.code == "context_length_exceeded" and f"{card.context:,}" in error.message
    assert refused(openai.BadRequestError, lambda: wide.text(prompt=long, stream=True)).code == error.code


def broken_requests_are_clean_errors(wide: Server, narrow: Server) -> None:
    """No JSON, no object, too deep, too large, a wrong type, a wrong path, a wrong method."""
    place = "/v1/chat/completions"
    half = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 50_000, half):
        assert wide.raw("POST", place, body)[0] == 400
    assert wide.raw("POST", place, b"{}", Content_Type="text/plain")[0] == 415
    status, said = wide.raw("POST", place, b" " * 200_000)
    assert status == 413 and said["error"]["code"] == "body_too_large"
    assert wide.raw("GET", "/v1/nothing")[1]["error"]["code"] == "unknown_url"
    assert wide.raw("DELETE", place)[0] == 405
    assert wide.raw("POST", "/completion", b"{}")[0] == 404, "llama.cpp's own endpoints are not passed on"


def pages_of_other_sites_are_refused(wide: Server, narrow: Server) -> None:
    """Another origin, or this machine under another name."""
    body = json.dumps({"messages": ASKED, "max_tokens": 1}).encode()
    assert wide.raw("POST", "/v1/chat/completions", body)[0] == 200
    assert wide.raw("POST", "/v1/chat/completions", body, Origin="https://example.com")[0] == 403
    assert wide.raw("GET", "/v1/models", Host="example.com")[0] == 403


def a_key_is_needed_where_there_is_one(wide: Server, narrow: Server) -> None:
    """401 without it or with another; every endpoint but the page and /health."""
    other = openai.OpenAI(base_url=narrow.address + "/v1", api_key="another", max_retries=0)
    assert refused(openai.AuthenticationError, lambda: other.models.list()).code == "invalid_api_key"
    assert narrow.raw("POST", "/v1/completions", b"{}")[0] == 401
    assert narrow.raw("GET", "/health")[0] == 200
    assert narrow.chat(max_tokens=2).choices[0].message.content


def sixteen_clients_at_once(wide: Server, narrow: Server) -> None:
    """Each gets its own answer, the one that it gets alone; half of them stream."""
    prompts = [f"Question {number}: How many singers are older than {number}?" for number in range(16)]

    def ask(index: int) -> str:
        asked: Any = [{"role": "user", "content": prompts[index]}]
        if index % 2:
            return streamed(wide.chat(messages=asked, stream=True, max_tokens=24))[0]
        return str(wide.chat(messages=asked, max_tokens=24).choices[0].message.content)

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(16)))
    alone = [ask(index) for index in range(16)]
    same = sum(a == b for a, b in zip(together, alone, strict=True))
    assert all(together) and same >= 14, f"{same} of 16 the same"  # a batch rounds otherwise than one row


# Thirty long answers, one after the other. The first ids are the starter's end tokens; other models are slower.
ENDLESS: dict[str, Any] = {
    "prompt": "SELECT",
    "n": 30,
    "max_tokens": 2000,
    "temperature": 2,
    "logprobs": 20,
    "logit_bias": {str(number): -100 for number in range(8)},
}


def endless(narrow: Server) -> Any:
    """A stream that would take far longer than the time limit."""
    return narrow.text(**ENDLESS, stream=True)


def a_client_that_leaves_frees_its_slot(wide: Server, narrow: Server) -> None:
    """In the middle of a stream, and while it waits for a whole answer: llama.cpp stops the work."""
    stream = endless(narrow)
    next(iter(stream))
    assert narrow.health()["busy"] == 1 and narrow.health()["waiting"] > 0
    stream.close()
    until_idle(narrow, 15)
    impatient = narrow.client.with_options(timeout=0.5)
    with contextlib.suppress(openai.APITimeoutError):
        impatient.completions.create(model=narrow.model, **ENDLESS)
        raise AssertionError("the answer came too soon for this check")
    until_idle(narrow, 15)
    assert narrow.chat(max_tokens=2).choices[0].message.content


def no_request_outlives_its_time_limit(wide: Server, narrow: Server) -> None:
    """A stream ends with an error event, a whole answer with 504; both soon after the limit of 4 s."""
    started = time.monotonic()
    try:
        for _ in endless(narrow):
            pass
        raise AssertionError("the stream ended well")
    except openai.APIError as error:
        assert "4 s" in error.message
    try:
        narrow.text(**ENDLESS)
        raise AssertionError("the answer came")
    except openai.InternalServerError as error:
        assert error.status_code == 504 and error.code == "request_timeout"
    assert time.monotonic() - started < 30
    until_idle(narrow)


def a_full_queue_is_said_at_once(wide: Server, narrow: Server) -> None:
    """503 with Retry-After, so that clients come again."""
    stream = endless(narrow)
    next(iter(stream))
    error = refused(openai.InternalServerError, lambda: narrow.text(n=20))
    assert error.status_code == 503 and error.response.headers["Retry-After"] == "1"
    stream.close()
    until_idle(narrow)


def a_client_that_reads_nothing_is_cut_off(wide: Server, narrow: Server) -> None:
    """It cannot hold a slot longer than the time limit."""
    place = urlsplit(narrow.address)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    body = {**ENDLESS, "stream": True}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with contextlib.closing(connection):
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        time.sleep(1)
        assert narrow.health()["busy"] == 1
        until_idle(narrow)


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        models_are_listed,
        an_unknown_model_is_404,
        chat_has_openais_shape,
        temperature_0_repeats_itself,
        max_tokens_cuts_the_answer,
        an_answer_ends_by_itself,
        a_stream_says_what_the_whole_answer_says,
        a_stream_tells_usage_when_asked,
        stop_texts_end_an_answer,
        stop_texts_end_a_stream,
        a_seed_repeats_an_answer,
        several_answers,
        several_streamed_answers,
        chat_logprobs,
        streamed_logprobs_are_those_of_the_whole,
        a_schema_holds,
        json_mode_and_a_streamed_schema,
        a_bad_schema_is_refused,
        text_completions,
        text_logprobs,
        many_prompts_in_one_request,
        a_conversation_is_read_whole,
        logit_bias_acts,
        wrong_values_are_named,
        too_many_tokens_are_refused,
        broken_requests_are_clean_errors,
        pages_of_other_sites_are_refused,
        a_key_is_needed_where_there_is_one,
        sixteen_clients_at_once,
        a_client_that_leaves_frees_its_slot,
        no_request_outlives_its_time_limit,
        a_full_queue_is_said_at_once,
        a_client_that_reads_nothing_is_cut_off,
    )
}


@contextlib.contextmanager
def both(path: str) -> Iterator[tuple[Server, Server]]:
    """The two servers, started side by side."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        lock = threading.Lock()

        def start(options: list[str], key: str) -> Server:
            manager = serving(path, *options, key=key)
            server = manager.__enter__()
            with lock:
                stack.push(manager)
            return server

        found = [pool.submit(start, WIDE, "none"), pool.submit(start, NARROW, KEY)]
        yield found[0].result(), found[1].result()


def main() -> int:
    """Run every check; the number of failures is said."""
    failed = 0
    with both(sys.argv[1] if len(sys.argv) > 1 else "starter") as servers:
        for name, check in CHECKS.items():
            started, problem = time.monotonic(), ""
            try:
                check(*servers)
            except Exception as error:
                problem, failed = f"  {type(error).__name__}: {str(error)[:300]}", failed + 1
            print(f"{'FAIL' if problem else 'ok':<5}{name} ({time.monotonic() - started:.1f} s){problem}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed with openai {openai.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
