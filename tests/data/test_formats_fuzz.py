"""Whatever a row holds, it becomes a record, is counted, or is refused with a plain sentence; nothing else happens."""

from __future__ import annotations

from typing import Any

from format_rows import stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.config.dataset_keys import DATASET_TYPES
from whet.data.formats import FormatSpec, open_records
from whet.data.records import ChatRecord, LabelRecord, PairRecord, PreferenceRecord, TextRecord
from whet.errors import DataError

ASKED = ["messages", "conversation", "prompt", "instruction", "input", "question", "system", "tools"]
ANSWERED = ["completion", "output", "chosen", "rejected", "chosen_response", "rejected_response", "label", "text"]
COLUMNS = ASKED + ANSWERED
KEYS = ["from", "value", "tool_calls", "function", "name", "arguments", "function_call", "train", "weight", "thinking"]
PART_KEYS = ["role", "content", "type", "text", "id", *KEYS]
ROLES = ["system", "user", "human", "assistant", "gpt", "tool", "function_call", "wizard"]

scalars = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=5) | st.sampled_from([*ROLES, "{}"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PART_KEYS), inner, max_size=4),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "content": values}, optional=dict.fromkeys(KEYS, values)
)
cells = values | st.lists(messages, max_size=4)
rows = st.dictionaries(st.sampled_from(COLUMNS), cells)
SHAPES = (TextRecord, PairRecord, ChatRecord, PreferenceRecord, LabelRecord)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(row=rows)
def test_rows_of_nonsense(row: dict[str, Any]) -> None:
    for kind in ("mapping", *DATASET_TYPES):
        check(dict.fromkeys(COLUMNS) | row, kind)
    check(row, None)


def check(row: dict[str, Any], kind: str | None) -> None:
    try:
        found = list(open_records(stream([row]), FormatSpec(kind=kind)))
    except DataError as error:
        assert str(error)
        return
    assert len(found) == 1 and isinstance(found[0], SHAPES)
    record = found[0]
    if isinstance(record, PairRecord):
        assert isinstance(record.prompt, str) and record.completion.strip()
        ends = [place for span in record.content for place in span]
        assert ends == sorted(set(ends)) and all(0 <= end <= len(record.prompt + record.completion) for end in ends)
    for part in ("messages", "prompt", "chosen", "rejected"):
        for message in getattr(record, part, []) if not isinstance(record, PairRecord) else []:
            assert message["role"] in ("system", "user", "assistant", "tool") and isinstance(message["content"], str)
            assert all(isinstance(call["function"]["arguments"], dict) for call in message.get("tool_calls", []))
