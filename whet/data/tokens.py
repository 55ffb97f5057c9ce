"""Records of any shape to encoded rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.errors import DataError
from whet.text.encode import ROWS_AT_ONCE, Encoded, EncodedRows, Encoder, mark_pair
from whet.text.masks import Marked, Marker, TrainOn


class RecordEncoder:
    """Records to tokens, for one tokenizer.

    A text is trained as a whole; of a pair the completion; of a chat the assistant's turns, or what ``train_on`` says.
    A text that does not end with the tokenizer's end token gets one: a model that never saw an end never stops.

    Args:
        train_on: "all" trains the prompts too; "last" only the last turn of a chat.
    """

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant") -> None:
        self.encoder = Encoder(tokenizer)
        self.marker = Marker(tokenizer, train_on)
        self.end: str | None = tokenizer.eos_token

    def __call__(self, records: Sequence[Record]) -> EncodedRows:
        """Encode in order, one row for each record.

        Raises:
            DataError: a record that is no single document, or messages that the chat template refuses.
        """
        return self.encoder.encode(self.mark(records))

    def mark(self, records: Sequence[Record]) -> list[Marked]:
        """The texts of the records and what of them is trained."""
        return [self._mark(record) for record in records]

    def _mark(self, record: Record) -> Marked:
        if isinstance(record, ChatRecord):
            return self.marker.mark(record.messages, record.tools)
        if isinstance(record, PairRecord):
            literal = [
                (start + a, start + b)
                for start, stop in record.content
                for a, b in self.encoder.specials.inside((record.prompt + record.completion)[start:stop])
            ]
            return mark_pair(record.prompt, record.completion, self.marker.train_on == "all", literal)
        if isinstance(record, TextRecord):
            # a template may write a line break after its end token
            ended = self.end is None or record.text.rstrip().endswith(self.end)
            return Marked(record.text, None, add_eos=not ended)
        raise DataError(
            f"a row of the kind {type(record).__name__} (preference pair or label)",
            "texts, pairs of prompt and completion, or conversations",
            "supervised fine-tuning cannot use such rows",
        )


def encode_records(
    tokenizer: Any, records: Iterable[Record], train_on_inputs: bool = False, train_on: TrainOn = "assistant"
) -> Iterator[Encoded]:
    """``RecordEncoder`` over any number of records, lazily and in order.

    Args:
        train_on_inputs: the same as ``train_on="all"``.
    """
    encode = RecordEncoder(tokenizer, "all" if train_on_inputs else train_on)
    iterator = iter(records)
    while chunk := list(islice(iterator, ROWS_AT_ONCE)):
        yield from encode(chunk)
