"""Text to token ids and labels, with an exact loss mask.

Every row becomes one text and a list of character ranges that are trained. The text is tokenised once, as a whole, so
the ids are the ids that the model meets later. A token is trained when it overlaps a trained range; a token that lies
across the border of prompt and answer is therefore trained. Where a range begins and ends is known from how the text
was made (prompt + completion, or the chat template rendered turn by turn). Nothing is ever searched in the text: an
answer that quotes the template cannot move the mask.

What is trained in a conversation: from the end of the generation prompt to the end of the assistant's turn, with its
terminator. When that terminator is a special token, the white space that the template writes after it is not trained
(the model stops at the terminator and never produces it). So the trained text is the answer and its terminator.

Labels are not shifted. ``IGNORE`` marks what is not trained; the first label is always ``IGNORE``, because nothing
predicts the first token of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from whet.errors import DataError, ModelError

IGNORE = -100
ROWS_AT_ONCE = 1000  # rows per call of the tokenizer: enough for its threads, small enough to stay in memory

TrainOn = Literal["assistant", "last", "all"]
Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """One document. ``labels[i]`` is ``ids[i]`` where it is trained, else ``IGNORE``; both have the same length."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Marked:
    """A text and its trained character ranges; ``spans`` None means all of it."""

    text: str
    spans: tuple[Span, ...] | None


def encode_text(tokenizer: Any, text: str, add_eos: bool = False) -> Encoded:
    """A plain text, all of it trained. Special tokens that the tokenizer adds by itself are added once.

    Args:
        add_eos: end with the tokenizer's end token, unless the text does already.
    """
    return next(encode_texts(tokenizer, [text], add_eos))


def encode_pair(tokenizer: Any, prompt: str, completion: str, train_on_inputs: bool = False) -> Encoded:
    """``prompt + completion`` and one end token; the prompt is not trained unless ``train_on_inputs``."""
    return next(encode_pairs(tokenizer, [(prompt, completion)], train_on_inputs))


def encode_messages(tokenizer: Any, messages: Messages, train_on: TrainOn = "assistant") -> Encoded:
    """A conversation in the tokenizer's chat template; the ids are those of ``tokenizer.apply_chat_template``.

    Args:
        messages: ``{"role", "content"}`` each.
        train_on: every assistant turn, the last assistant turn only, or the whole text.

    Raises:
        DataError: the template refuses the messages, or does not render them turn by turn.
        ModelError: the tokenizer has no chat template.
    """
    return next(encode_conversations(tokenizer, [messages], train_on))


def encode_texts(tokenizer: Any, texts: Iterable[str], add_eos: bool = False) -> Iterator[Encoded]:
    """``encode_text`` for many rows, lazily and in order."""
    marked = (Marked(text, None) for text in texts)
    return _encode(tokenizer, marked, add_specials=True, eos=_eos(tokenizer) if add_eos else None)


def encode_pairs(tokenizer: Any, pairs: Iterable[tuple[str, str]], train_on_inputs: bool = False) -> Iterator[Encoded]:
    """``encode_pair`` for many rows, lazily and in order."""
    marked = (
        Marked(prompt + answer, None if train_on_inputs else ((len(prompt), len(prompt) + len(answer)),))
        for prompt, answer in pairs
    )
    return _encode(tokenizer, marked, add_specials=True, eos=_eos(tokenizer))


def encode_conversations(
    tokenizer: Any, conversations: Iterable[Messages], train_on: TrainOn = "assistant"
) -> Iterator[Encoded]:
    """``encode_messages`` for many rows, lazily and in order."""
    if train_on not in ("assistant", "last", "all"):
        raise DataError(f"train_on: {train_on!r}", 'one of "assistant", "last", "all"')
    special = special_texts(tokenizer)
    marked = (_mark(tokenizer, messages, train_on, special) for messages in conversations)
    return _encode(tokenizer, marked, add_specials=False, eos=None)


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """The conversation as text, ending where the assistant is to speak."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def special_texts(tokenizer: Any) -> tuple[str, ...]:
    """The texts of the tokenizer's special tokens, longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text)))


def _mark(tokenizer: Any, messages: Messages, train_on: TrainOn, special: tuple[str, ...]) -> Marked:
    text = _render(tokenizer, messages)
    if train_on == "all":
        return Marked(text, None)
    turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    if train_on == "last":
        turns = turns[-1:]
    return Marked(text, tuple(_turn_span(tokenizer, messages, i, text, special) for i in turns))


def _turn_span(tokenizer: Any, messages: Messages, turn: int, text: str, special: tuple[str, ...]) -> Span:
    """Characters of one assistant turn in ``text``: after the generation prompt, up to its terminator."""
    before = _render(tokenizer, messages[:turn], add_generation_prompt=True)
    until = text if turn == len(messages) - 1 else _render(tokenizer, messages[: turn + 1])
    if not until.startswith(before) or not text.startswith(until):
        part = "its generation prompt" if not until.startswith(before) else "the turns after it"
        raise DataError(
            f"the chat template cannot be masked: message {turn} (assistant) is written differently "
            f"with {part} than without",
            "a template that writes each turn the same way whatever follows",
            "use another chat template, or train on the whole text",
        )
    body = until[len(before) :].rstrip()
    closed = any(body.endswith(token) for token in special)
    return len(before), len(before) + len(body) if closed else len(until)


def _render(tokenizer: Any, messages: Messages, add_generation_prompt: bool = False) -> str:
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template",
            "a chat template, since the rows are messages",
            "choose one, or give the rows as prompt and completion",
        )
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = ", ".join(str(message.get("role")) for message in messages) or "none"
        raise DataError(f"the chat template refuses the messages (roles: {roles}): {error}") from error


def _encode(tokenizer: Any, rows: Iterable[Marked], add_specials: bool, eos: int | None) -> Iterator[Encoded]:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} does not tell which characters a token covers",
            "a fast tokenizer (a model folder with tokenizer.json)",
        )
    head, tail = _own_specials(tokenizer) if add_specials else ([], [])
    if eos is not None and tail[-1:] != [eos]:
        tail = [*tail, eos]
    iterator = iter(rows)
    while chunk := list(islice(iterator, ROWS_AT_ONCE)):
        yield from _encode_chunk(tokenizer, chunk, head, tail)


def _encode_chunk(tokenizer: Any, rows: list[Marked], head: list[int], tail: list[int]) -> Iterator[Encoded]:
    need_offsets = any(row.spans is not None for row in rows)
    batch = tokenizer(
        [row.text for row in rows],
        add_special_tokens=False,
        return_offsets_mapping=need_offsets,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    offsets = batch["offset_mapping"] if need_offsets else [[]] * len(rows)
    for row, ids, extents in zip(rows, batch["input_ids"], offsets, strict=True):
        labels = list(ids) if row.spans is None else _labels(ids, extents, row.spans)
        yield _close(ids, labels, head, tail)


def _labels(ids: list[int], offsets: list[Span], spans: Sequence[Span]) -> list[int]:
    """Labels of the tokens that overlap a span; spans are in order and do not overlap.

    Two things to know about the offsets of byte-level BPE: the tokens of one multi-byte character all carry that
    character's range, and the white space in front of a token may be cut off its range (a token of spaces only then
    has an empty range at its end). So a token begins where the token before it ended, or earlier.
    """
    labels, reached, current = [IGNORE] * len(ids), 0, 0
    for i, (start, end) in enumerate(offsets):
        start = min(start, reached)
        reached = max(reached, end)
        while current < len(spans) and spans[current][1] <= start:
            current += 1
        if current < len(spans) and end > spans[current][0] and end > start:
            labels[i] = ids[i]
    return labels


def _close(ids: list[int], labels: list[int], head: list[int], tail: list[int]) -> Encoded:
    """Add the special tokens around a row, each once; the end is trained, the beginning is not."""
    if head and ids[: len(head)] != head:
        ids, labels = head + ids, [IGNORE] * len(head) + labels
    if tail and ids[-len(tail) :] != tail:
        ids, labels = ids + tail, labels + tail
    if labels:
        labels[0] = IGNORE
    return Encoded(ids, labels)


def _own_specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text by itself (a bos token, say)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    dressed = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(dressed) - len(plain) + 1):
        if dressed[start : start + len(plain)] == plain:
            return dressed[:start], dressed[start + len(plain) :]
    return [], []


def _eos(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token (eos_token)", "one, so that answers end")
    return int(tokenizer.eos_token_id)
