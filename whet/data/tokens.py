"""Records of any shape to encoded rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.text.encode import Encoded, encode_conversations, encode_pairs, encode_texts


def encode_records(tokenizer: Any, records: Sequence[Record], train_on_inputs: bool = False) -> Iterator[Encoded]:
    """Encode in order. A text is trained as a whole; of a pair the completion; of a chat the assistant's turns.

    A text that does not end with the tokenizer's end token gets one: a model that never saw an end never stops.

    Args:
        train_on_inputs: train the prompts too.
    """
    for kind, group in groupby(records, type):
        if kind is PairRecord:
            pairs = ((r.prompt, r.completion) for r in group if isinstance(r, PairRecord))
            yield from encode_pairs(tokenizer, pairs, train_on_inputs)
        elif kind is ChatRecord:
            chats = (r.messages for r in group if isinstance(r, ChatRecord))
            yield from encode_conversations(tokenizer, chats, "all" if train_on_inputs else "assistant")
        else:
            yield from _encode_texts(tokenizer, (r.text for r in group if isinstance(r, TextRecord)))


def _encode_texts(tokenizer: Any, texts: Iterable[str]) -> Iterator[Encoded]:
    end = tokenizer.eos_token

    def ended(text: str) -> bool:
        return end is None or text.rstrip().endswith(end)  # a template may write a line break after its end token

    for has_end, group in groupby(texts, ended):
        yield from encode_texts(tokenizer, group, add_eos=not has_end)
