"""From encoded rows to batches: what is kept, what is counted, what a batch holds."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from whet.data.loader import Layout, PackedDataset, PaddedDataset, collate, collate_padded, prepare
from whet.data.prepare import CUT_BEFORE_ANSWER, NOTHING_TRAINED, TOO_LONG
from whet.errors import DataError
from whet.text.encode import IGNORE, Encoded


def row(size: int, prompt: int = 1, first: int = 10) -> Encoded:
    ids = list(range(first, first + size))
    return Encoded(ids, ((prompt, size),) if size > prompt else ())


def test_rows_lie_flat_and_are_counted():
    prepared = prepare([row(3), row(5, prompt=2), row(4, prompt=4), row(99), Encoded([7], ((0, 1),))], 10)
    assert len(prepared) == 2
    assert prepared.lengths.tolist() == [3, 5]
    ids, labels = prepared.row(1)
    assert ids.tolist() == [10, 11, 12, 13, 14]
    assert labels.tolist() == [IGNORE, IGNORE, 12, 13, 14]
    assert prepared.ids.dtype == np.int32
    stats = prepared.stats
    assert (stats.rows, stats.tokens, stats.trained_tokens, stats.longest_row) == (2, 8, 5, 99)
    assert stats.dropped == {NOTHING_TRAINED: 2, TOO_LONG: 1}
    assert stats.truncated == 0


def test_a_cut_never_goes_through_an_answer():
    """Answers at 4-7 and 9-14: within 8 tokens only the first one is whole."""
    chat = Encoded(list(range(14)), ((4, 7), (9, 14)))
    prepared = prepare([chat, row(12, prompt=4), row(3)], 8, "truncate")
    assert prepared.lengths.tolist() == [7, 3]
    ids, labels = prepared.row(0)
    assert ids.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert labels.tolist() == [IGNORE] * 4 + [4, 5, 6]
    assert prepared.stats.truncated == 1
    assert prepared.stats.dropped == {CUT_BEFORE_ANSWER: 1}


def test_texts_may_be_cut_or_split():
    text = Encoded(list(range(20)), ((1, 20),))
    cut = prepare([text, row(4)], 8, "truncate")
    assert cut.lengths.tolist() == [8, 4]
    pieces = prepare([text, row(4), row(9, prompt=4)], 8, "split")
    assert pieces.lengths.tolist() == [8, 8, 6, 4]
    trained = [token for i in range(3) for token in pieces.row(i)[1].tolist() if token != IGNORE]
    assert trained == list(range(1, 20))  # every token once; each piece begins with the last token of the one before
    assert [pieces.row(i)[0][0] for i in range(3)] == [0, 7, 14]
    assert (pieces.stats.truncated, pieces.stats.dropped) == (1, {TOO_LONG: 1})


def test_errors_say_what_to_do():
    with pytest.raises(DataError, match=r"row 2 has 12 tokens(.|\n)*sequence_len"):
        prepare([row(3), row(12)], 8, "error")
    with pytest.raises(DataError, match=r"none of the 2 rows(.|\n)*above 12"):
        prepare([row(12), row(12)], 8)
    with pytest.raises(DataError, match=r"nothing to train on(.|\n)*answers"):
        prepare([row(5, prompt=5)], 8)
    with pytest.raises(DataError, match="no rows"):
        prepare([], 8)
    with pytest.raises(DataError, match="excess_length_strategy"):
        prepare([row(3)], 8, "cut")


def test_packed_items_restart_positions_and_never_train_a_first_token():
    whole = Encoded([1, 2, 3], ((0, 3),))  # even when a caller forgot it
    packed = PackedDataset(prepare([row(5), whole, row(4)], 8), 8)
    assert len(packed) == 2
    assert sorted(packed.documents_per_bin.tolist()) == [1, 2]
    assert packed.fill_ratio == 12 / 16
    both = packed[int(packed.documents_per_bin.argmax())]
    assert both["position_ids"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert both["labels"][0] == both["labels"][5] == IGNORE
    assert both["input_ids"].dtype == both["labels"].dtype == torch.int64


def test_packing_keeps_every_token():
    rows = [row(size, first=100 * size) for size in (3, 9, 4, 7, 7, 2)]
    packed = PackedDataset(prepare(rows, 16), 16)
    seen = sorted(token for item in packed for token in item["input_ids"].tolist())
    assert seen == sorted(token for each in rows for token in each.ids)
    labelled = sum(int((item["labels"] != IGNORE).sum()) for item in packed)
    assert labelled == packed.prepared.stats.trained_tokens


def test_padding_is_at_the_right_and_its_own_document():
    items = [PaddedDataset(prepare([row(3), row(5)], 8))[i] for i in (0, 1)]
    batch = collate(items, pad_id=3)
    assert set(batch) == {"input_ids", "labels", "position_ids", "rows", "layout"}
    assert batch["rows"].tolist() == [0, 1, 5, 6, 7, 8]
    assert batch["layout"] == Layout(lengths=(3, 2, 5), real=8, labelled=6)
    assert batch["input_ids"].tolist() == [[10, 11, 12, 3, 3], [10, 11, 12, 13, 14]]
    assert batch["labels"][0].tolist() == [IGNORE, 11, 12, IGNORE, IGNORE]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    padded = collate_padded(items, pad_id=3)
    assert padded["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert padded["layout"].lengths == (5, 5) and padded["rows"].tolist() == batch["rows"].tolist()


def test_a_data_set_can_be_sent_to_workers():
    packed = PackedDataset(prepare([row(3), row(5)], 8), 8)
    again = pickle.loads(pickle.dumps(packed))
    assert torch.equal(again[0]["input_ids"], packed[0]["input_ids"])
