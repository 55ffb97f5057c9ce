"""Makes the questions from the templates, and splits them into training and held-out rows.

Every choice is drawn from a hash of what is chosen, never from a generator's state: adding a template leaves the
order of the others alone, and every Python makes the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from whet.errors import DataError
from whet.sample.answers import Answer, Answers
from whet.sample.pools import POOLS, Value
from whet.sample.rows import Row
from whet.sample.template import Template

Values = dict[str, Value]

MAX_HELD_OUT_VALUES = 6  # of one template, so that no subject fills the held-out set
MAX_SHARE_OF_ONE_ANSWER = 0.03  # of the held-out rows; the rule for the sample is 5%


def build(
    templates: Sequence[Template], connection: sqlite3.Connection, seed: int, n_train: int, n_held_out: int
) -> tuple[list[Row], list[Row]]:
    """Training rows and held-out rows; two thirds of the latter in wordings that training shows.

    Raises:
        DataError: the templates do not give enough questions.
    """
    answers = Answers(connection)
    train: list[list[Row]] = []
    held_out: list[tuple[Row, Answer]] = []
    for template in templates:
        fillings = _fillings(template, answers, seed)
        kept = min(MAX_HELD_OUT_VALUES, len(fillings) // 5)
        held_out += _held_out_rows(template, fillings[:kept], answers, seed)
        train.append(_train_rows(template, fillings[kept:], seed))
    test = _choose(held_out, n_held_out, seed)
    return _shuffled(_take_in_turn(train, n_train), seed), test


def fill(template: Template, phrasing: str, values: Values) -> tuple[str, str]:
    """The question and its SQL for one choice of values."""
    question = phrasing.format(**{slot: value.text for slot, value in values.items()})
    sql = template.sql.format(**{slot: value.sql for slot, value in values.items()})
    return question, sql


def _fillings(template: Template, answers: Answers, seed: int) -> list[Values]:
    """Every choice of values with a useful answer, in an order drawn from the seed."""
    slots = template.slots()
    found: list[Values] = []
    for choice in itertools.product(*(POOLS[slot] for slot in slots)):
        values = dict(zip(slots, choice, strict=True))
        if answers.usable(fill(template, "", values)[1]):
            found.append(values)
    return sorted(found, key=lambda values: _draw(seed, template.name, *(value.sql for value in values.values())))


def _held_out_rows(template: Template, fillings: list[Values], answers: Answers, seed: int) -> list[tuple[Row, Answer]]:
    """Each choice of values once in a trained wording, and once in an unseen one where the template has some."""
    rows: list[tuple[Row, Answer]] = []
    for values in fillings:
        for phrasings, seen in ((template.phrasings, True), (template.unseen, False)):
            if phrasings:
                sql = fill(template, "", values)[1]
                phrasing = phrasings[_draw(seed, "wording", sql, seen) % len(phrasings)]
                rows.append((Row(*fill(template, phrasing, values), template.name, seen), answers.answer(sql)))
    return rows


def _train_rows(template: Template, fillings: list[Values], seed: int) -> list[Row]:
    """All questions of a template: first each choice of values once, wordings in turn, then the other wordings."""
    phrasings = template.phrasings
    rows = []
    for round_number in range(len(phrasings)):
        for i, values in enumerate(fillings):
            phrasing = phrasings[(i + round_number) % len(phrasings)]
            rows.append(Row(*fill(template, phrasing, values), template.name, True))
    return rows


def _take_in_turn(per_template: list[list[Row]], wanted: int) -> list[Row]:
    """One row of each template, then the next of each, until there are enough."""
    turns = itertools.chain.from_iterable(itertools.zip_longest(*per_template))
    rows = list(itertools.islice((row for row in turns if row is not None), wanted))
    if len(rows) < wanted:
        raise DataError(f"the templates give {len(rows)} training questions", f"{wanted}", "add templates or wordings")
    return rows


def _choose(candidates: list[tuple[Row, Answer]], wanted: int, seed: int) -> list[Row]:
    """Pick held-out rows so that no answer is frequent and templates share the places evenly."""
    unseen_wanted = wanted // 3
    limit = max(1, int(wanted * MAX_SHARE_OF_ONE_ANSWER))
    answers: Counter[Answer] = Counter()
    chosen: list[Row] = []
    for seen, places in ((False, unseen_wanted), (True, wanted - unseen_wanted)):
        taken = {row.sql for row in chosen}
        pool = [(row, answer) for row, answer in candidates if row.seen_phrasing is seen and row.sql not in taken]
        picked = _spread(pool, places, limit, answers, seed)
        if len(picked) < places:
            raise DataError(f"the templates give {len(picked)} held-out questions", f"{places}", "add templates")
        chosen += picked
    return _shuffled(chosen, seed)


def _spread(pool: list[tuple[Row, Answer]], places: int, limit: int, answers: Counter[Answer], seed: int) -> list[Row]:
    """Take rows template by template while their answer is not yet too frequent."""
    ranked: list[tuple[int, int, Row, Answer]] = []
    for _, group in itertools.groupby(pool, key=lambda pair: pair[0].template):
        ranked += [(turn, _draw(seed, "turn", row.sql), row, answer) for turn, (row, answer) in enumerate(group)]
    picked: list[Row] = []
    for _, _, row, answer in sorted(ranked, key=lambda entry: entry[:2]):
        if len(picked) < places and answers[answer] < limit:
            answers[answer] += 1
            picked.append(row)
    return picked


def _shuffled(rows: Iterable[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: _draw(seed, "order", row.question))


def _draw(*parts: object) -> int:
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")
