"""Text to token ids, with the exact ranges of tokens that are trained.

Every row becomes one text and a list of character ranges that are trained. The text is tokenised once, as a whole, so
the ids are the ids that the model meets later. A token is trained when it overlaps a trained range (``borders.py``);
a token that lies across the border of prompt and answer is therefore trained. Where a range begins and ends is known
from how the text was made (prompt + completion, or the chat template: ``masks.py``). Nothing is ever searched in the
text: an answer that quotes the template cannot move the mask.

Special-token text inside of data is encoded as plain text (``literal.py``).

Labels are not shifted. ``IGNORE`` marks what is not trained; the first token is never trained, because nothing
predicts the first token of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np

from whet.errors import ModelError
from whet.text.borders import byte_lengths, spans_by_length, spans_by_offsets
from whet.text.literal import Span, rename_outside, specials_of
from whet.text.masks import Marked, Marker, Messages, TrainOn

IGNORE = -100
ROWS_AT_ONCE = 1000  # rows per call of the tokenizer: enough for its threads, small enough to stay in memory


@dataclass(frozen=True)
class Encoded:
    """One document.

    Attributes:
        ids: its tokens.
        trained: ranges of tokens that are trained, in order; each is an answer with its terminator, or the whole text.
        literal: special-token texts in the data that were encoded as plain text.
    """

    ids: list[int]
    trained: tuple[Span, ...]
    literal: int = 0

    @property
    def labels(self) -> list[int]:
        """``ids[i]`` where the token is trained, else ``IGNORE``."""
        labels = [IGNORE] * len(self.ids)
        for start, stop in self.trained:
            labels[start:stop] = self.ids[start:stop]
        return labels


@dataclass(frozen=True)
class EncodedRows:
    """Many documents in flat arrays.

    Attributes:
        ids: tokens of all rows, int32.
        offsets: row i is ``ids[offsets[i]:offsets[i + 1]]``, int64.
        spans: for each row its trained ranges, from the start of the row.
        literal: for each row the special-token texts that were encoded as plain text.
    """

    ids: np.ndarray
    offsets: np.ndarray
    spans: list[tuple[Span, ...]]
    literal: list[int]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, row: int) -> Encoded:
        ids = self.ids[self.offsets[row] : self.offsets[row + 1]].tolist()
        return Encoded(ids, self.spans[row], self.literal[row])

    def __iter__(self) -> Iterator[Encoded]:
        return (self[row] for row in range(len(self)))


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
        messages: ``{"role", "content"}`` each, and what else the template reads; ``"train": bool`` wins over the role.
        train_on: every assistant turn, the last assistant turn only, or the whole text.

    Raises:
        DataError: the template refuses the messages, or it cannot be told where a turn begins and ends.
        ModelError: the tokenizer has no chat template.
    """
    return next(encode_conversations(tokenizer, [messages], train_on))


def encode_texts(tokenizer: Any, texts: Iterable[str], add_eos: bool = False) -> Iterator[Encoded]:
    """``encode_text`` for many rows, lazily and in order."""
    return encode_marked(tokenizer, (Marked(text, None, add_eos=add_eos) for text in texts))


def encode_pairs(tokenizer: Any, pairs: Iterable[tuple[str, str]], train_on_inputs: bool = False) -> Iterator[Encoded]:
    """``encode_pair`` for many rows, lazily and in order."""
    return encode_marked(tokenizer, (mark_pair(prompt, answer, train_on_inputs) for prompt, answer in pairs))


def encode_conversations(
    tokenizer: Any, conversations: Iterable[Messages], train_on: TrainOn = "assistant"
) -> Iterator[Encoded]:
    """``encode_messages`` for many rows, lazily and in order."""
    marker = Marker(tokenizer, train_on)
    return encode_marked(tokenizer, (marker.mark(messages) for messages in conversations))


def encode_marked(tokenizer: Any, rows: Iterable[Marked]) -> Iterator[Encoded]:
    """Texts whose trained ranges are known, lazily and in order.

    Raises:
        ModelError: a tokenizer that does not tell which characters a token covers, or has no end token to add.
    """
    encoder, iterator = Encoder(tokenizer), iter(rows)
    while chunk := list(islice(iterator, ROWS_AT_ONCE)):
        yield from encoder.encode(chunk)


def mark_pair(prompt: str, completion: str, train_on_inputs: bool = False, literal: Sequence[Span] = ()) -> Marked:
    """A prompt and the completion that follows it."""
    text = prompt + completion
    return Marked(text, None if train_on_inputs else ((len(prompt), len(text)),), tuple(literal), True, True)


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """The conversation as text, ending where the assistant is to speak."""
    return Marker(tokenizer).render(messages, add_generation_prompt=True)


def special_texts(tokenizer: Any) -> tuple[str, ...]:
    """The texts of the tokenizer's special tokens, longest first."""
    return specials_of(tokenizer).texts


@dataclass
class _Row:
    """One row on its way: tokens and trained token ranges of its own text."""

    ids: list[int]
    spans: list[Span] | None = None


class Encoder:
    """A tokenizer made ready for many rows.

    Raises:
        ModelError: a tokenizer that does not tell which characters a token covers.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} does not tell which characters a token covers",
                "a fast tokenizer (a model folder with tokenizer.json)",
            )
        self.tokenizer = tokenizer
        self.specials = specials_of(tokenizer)
        self.lengths = byte_lengths(tokenizer)
        self.head, self.tail = _own_specials(tokenizer)

    def encode(self, rows: Sequence[Marked]) -> EncodedRows:
        """Rows of any kind, in order."""
        found = self._tokenise([row.text for row in rows if not row.literal])
        each = iter(found)
        plain = [row for row in rows if not row.literal]
        self._plain_spans(plain, found)
        done = [self._literal(row) if row.literal else next(each) for row in rows]
        spans = [self._close(row, made) for row, made in zip(rows, done, strict=True)]
        counts = np.fromiter((len(row.ids) for row in done), np.int64, len(done))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        ids = np.fromiter(chain.from_iterable(row.ids for row in done), np.int32, int(offsets[-1]))
        return EncodedRows(ids, offsets, spans, [len(row.literal) for row in rows])

    def _tokenise(self, texts: list[str]) -> list[_Row]:
        backend = self._backend()
        encode = backend.encode_batch if self.lengths is None else backend.encode_batch_fast
        encodings = encode(texts, add_special_tokens=False) if texts else []
        if self.lengths is None:
            self._offsets = [encoding.offsets for encoding in encodings]
        return [_Row(encoding.ids) for encoding in encodings]

    def _backend(self) -> Any:
        """The tokenizer without what an earlier call has left set (padding, say); each call sets these anew anyway."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = False
        return backend

    def _plain_spans(self, rows: Sequence[Marked], found: Sequence[_Row]) -> None:
        """Set the trained ranges of rows that have some of their own."""
        wanted = [i for i, row in enumerate(rows) if row.spans is not None]
        if self.lengths is None:
            for i in wanted:
                found[i].spans = self._by_offsets(self._offsets[i], rows[i], found[i])
            return
        rest = self._spans_by_length(self.lengths, [rows[i] for i in wanted], [found[i] for i in wanted])
        again = [wanted[i] for i in rest]
        encodings = self._backend().encode_batch([rows[i].text for i in again], add_special_tokens=False)
        for i, encoding in zip(again, encodings, strict=True):
            found[i].spans = self._by_offsets(encoding.offsets, rows[i], found[i])

    def _by_offsets(self, offsets: Sequence[Span], row: Marked, found: _Row) -> list[Span]:
        return spans_by_offsets(offsets, row.spans or (), found.ids, self.specials.ids)

    def _spans_by_length(self, lengths: np.ndarray, rows: Sequence[Marked], found: Sequence[_Row]) -> list[int]:
        """Set the ranges of all rows whose lengths add up; returns the numbers of the others."""
        counts = np.fromiter((len(row.ids) for row in found), np.int64, len(found))
        flat = np.fromiter(chain.from_iterable(row.ids for row in found), np.int64, int(counts.sum()))
        ends = np.cumsum(lengths[flat], dtype=np.int64)
        stops = np.cumsum(counts)
        row_ends = np.concatenate([[0], ends])[stops]
        row_starts = np.concatenate([[0], row_ends[:-1]])
        spans, owner, rest = [], [], []
        for i, row in enumerate(rows):
            size, borders = _bytes(row.text, row.spans or ())
            if size != row_ends[i] - row_starts[i]:
                rest.append(i)
                continue
            found[i].spans = []
            spans += borders
            owner += [i] * len(borders)
        first_token = (stops - counts).tolist()
        for i, (start, stop) in zip(owner, spans_by_length(ends, spans, owner, row_starts), strict=True):
            found[i].spans.append((start - first_token[i], stop - first_token[i]))  # type: ignore[union-attr]
        return rest

    def _literal(self, row: Marked) -> _Row:
        """A row that quotes special tokens."""
        text, anchors = rename_outside(self.specials, row.text, row.literal)
        tokenizer = self.specials.literal
        encoding = tokenizer.encode_batch([text])[0]
        spans = None if row.spans is None else [(_moved(anchors, a), _moved(anchors, b)) for a, b in row.spans]
        ids = tokenizer.ids_of(encoding)
        ranges = None if spans is None else spans_by_offsets(encoding.offsets, spans, ids, self.specials.ids)
        return _Row(ids, ranges)

    def _close(self, row: Marked, made: _Row) -> tuple[Span, ...]:
        """Add the special tokens around a row, each once; the end is trained with what it ends, the beginning not."""
        head, tail = self._around(row)
        ids = made.ids
        before = 0
        if head and ids[: len(head)] != head:
            ids, before = head + ids, len(head)
        spans = [(before, len(ids))] if made.spans is None else [(a + before, b + before) for a, b in made.spans]
        if tail and ids[-len(tail) :] != tail:
            ids = ids + tail
            if row.spans is None or (row.spans and row.spans[-1][1] == len(row.text)):
                reaches = bool(spans) and spans[-1][1] == len(ids) - len(tail)
                start = spans.pop()[0] if reaches else len(ids) - len(tail)
                spans.append((start, len(ids)))
        made.ids = ids
        return tuple((max(a, 1), b) for a, b in spans if b > max(a, 1))

    def _around(self, row: Marked) -> tuple[list[int], list[int]]:
        head, tail = (self.head, self.tail) if row.add_specials else ([], [])
        if row.add_eos:
            tail = tail if tail[-1:] == [self._eos] else [*tail, self._eos]
        return head, tail

    @cached_property
    def _eos(self) -> int:
        return _eos(self.tokenizer)


def _bytes(text: str, spans: Sequence[Span]) -> tuple[int, list[Span]]:
    """Size of the text and the spans, in bytes."""
    if text.isascii():
        return len(text), list(spans)
    return len(text.encode()), [(len(text[:a].encode()), len(text[:b].encode())) for a, b in spans]


def _moved(anchors: Sequence[Span], place: int) -> int:
    """A place in a text, in its renamed form."""
    old, new = next(anchor for anchor in reversed(anchors) if anchor[0] <= place)
    return new + place - old


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
