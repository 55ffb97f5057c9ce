"""Columns of a table merged to one question and its answer: ``to_sharegpt``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from whet.config.nearest import did_you_mean, refuse_arguments
from whet.console import notice
from whet.data.cell_text import column_texts
from whet.data.merged_prompt import Counts, parse_prompt
from whet.data.tables import as_dataset, column_names, column_values
from whet.data.turns import CONVERSATIONS, MESSAGE_COLUMNS, extend, with_column
from whet.errors import DataError

NO_OUTPUT = "no answer"
NO_PROMPT = "no question"


@dataclass(frozen=True)
class Merged:
    """A text for each row.

    Attributes:
        texts: one for each row; "" where everything was missing.
        left_out: for each optional part (its text in the prompt), the number of rows that lack it.
        blank: for each column outside of an optional part, the number of rows where it is missing.
    """

    texts: list[str]
    left_out: Mapping[str, int]
    blank: Mapping[str, int]


def to_sharegpt(
    dataset: Any,
    merged_prompt: str = "",
    merged_column_name: str = "instruction",
    output_column_name: str = "output",
    remove_unused_columns: bool = True,
    conversation_extension: int = 1,
    random_state: int = 3407,
    dialogue_extension: int | None = None,
    **unknown: Any,
) -> datasets.Dataset:
    """Merge columns to a question, and pair it with its answer: a ``conversations`` column in ShareGPT form.

    Args:
        dataset: a data set, a pandas frame or a list of rows.
        merged_prompt: how the question is written (``whet.data.merged_prompt`` has the rules); empty: it is the column
            ``merged_column_name``, as it is.
        merged_column_name: the question's column; with ``remove_unused_columns=False`` it then holds the merged text.
        output_column_name: the answer's column.
        remove_unused_columns: keep ``conversations`` only.
        conversation_extension: turns in each conversation, made of so many different rows. There are as many
            conversations as rows, so each row is seen so many times in an epoch.
        random_state: the seed of the rows' order in these.
        dialogue_extension: the older name of ``conversation_extension``.

    Returns:
        ``conversations``: ``[{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]``. Rows without an
        answer or a question are left out; how many, and which optional parts were missing, is said on stderr.

    Raises:
        DataError: a prompt that cannot be parsed (with a caret at the fault), an unknown column, no row left,
            fewer rows than turns.
        WhetError: an argument of an unknown name.
    """
    refuse_arguments(unknown, to_sharegpt)
    names = column_names(dataset)
    _refuse_conversations(dataset, names)
    turns = _turns(conversation_extension, dialogue_extension)
    _need(names, output_column_name, "output_column_name")
    merged = merge_columns(dataset, merged_prompt, merged_column_name)
    answers = column_texts(column_values(dataset, output_column_name))
    kept = _with_both(merged.texts, answers)
    _report(merged, len(answers))
    pairs = [_turn(merged.texts[row], str(answers[row])) for row in kept]
    conversations = [
        [message for row in rows for message in pairs[row]] for rows in extend(len(pairs), turns, random_state)
    ]
    if turns > 1:
        notice(
            f"conversation_extension={turns}: {len(pairs):,} conversations of {turns} turns; every row is in {turns} "
            f"of them, so an epoch has {turns} times the tokens of the rows"
        )
        if not remove_unused_columns:
            notice("the other columns are left out: a conversation of several rows has no single value for them")
    if remove_unused_columns or turns > 1:
        return datasets.Dataset.from_dict({CONVERSATIONS: conversations})
    others = as_dataset(dataset).select(kept)
    if merged_prompt:
        others = with_column(others, merged_column_name, [merged.texts[row] for row in kept])
    return with_column(others, CONVERSATIONS, conversations)


def merge_columns(dataset: Any, merged_prompt: str, merged_column_name: str = "instruction") -> Merged:
    """The question of each row, and what was missing.

    Raises:
        DataError: as ``to_sharegpt``.
    """
    names = column_names(dataset)
    if not merged_prompt:
        _need(names, merged_column_name, "merged_column_name", "or give a merged_prompt")
        cells = column_texts(column_values(dataset, merged_column_name))
        return Merged([cell or "" for cell in cells], {}, {})
    prompt = parse_prompt(merged_prompt, names)
    columns = {name: column_texts(column_values(dataset, name)) for name in prompt.columns}
    counts = Counts()
    texts = [
        prompt.render({name: column[row] for name, column in columns.items()}, counts) for row in range(len(dataset))
    ]
    return Merged(texts, dict(counts.left_out), dict(counts.blank))


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _with_both(questions: list[str], answers: list[str | None]) -> list[int]:
    """The rows that have a question and an answer; the others are counted."""
    kept, missing = [], Counter[str]()
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if answer is None:
            missing[NO_OUTPUT] += 1
        elif not question.strip():
            missing[NO_PROMPT] += 1
        else:
            kept.append(row)
    for reason, count in missing.items():
        notice(f"to_sharegpt: {count:,} of {len(answers):,} rows left out: {reason}")
    if not kept:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in missing.items())
        raise DataError(f"no row is left of {len(answers)}: {reasons}", "rows with a question and an answer")
    return kept


def _report(merged: Merged, rows: int) -> None:
    for part, count in merged.left_out.items():
        notice(f"to_sharegpt: the optional part {part!r} is left out in {count:,} of {rows:,} rows")
    for column, count in merged.blank.items():
        notice(
            f"to_sharegpt: {{{column}}} is missing in {count:,} of {rows:,} rows and stands outside of [[ ]]: "
            "it was written as empty text"
        )


def _turns(extension: int, older: int | None) -> int:
    if older is None or older == extension:
        return extension
    if extension != 1:
        raise DataError(
            f"conversation_extension={extension} and dialogue_extension={older}", "one of them: they are the same"
        )
    return older


def _refuse_conversations(dataset: Any, names: list[str]) -> None:
    """Rows that are conversations already have no columns to merge."""
    for name in MESSAGE_COLUMNS:
        if name in names and any(isinstance(value, list) for value in column_values(dataset, name)[:1]):
            raise DataError(
                f"the column {name} holds conversations already", "a table with columns to merge",
                "use standardize_sharegpt",
            )  # fmt: skip


def _need(names: list[str], name: str, argument: str, otherwise: str = "") -> None:
    if name not in names:
        hint = " ".join(text for text in (did_you_mean(name, names), otherwise) if text)
        raise DataError(f'{argument}: the rows have no column "{name}"', "one of " + ", ".join(names), hint)
