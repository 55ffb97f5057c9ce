"""Questions with SQL over made-up worlds: text for pre-training the starter model.

Every document holds a schema and several questions about it, in one of many layouts, so that the base model learns
English questions, SQL and how a question's words point at columns, but no table, wording or value of the sample task.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Callable

from starter_worlds import MONTHS, SYLLABLES, WORLDS


@dataclass(frozen=True)
class Column:
    name: str
    kind: str  # name | word | int | real | year | date | key
    args: tuple[str, ...]

    @property
    def spoken(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[Column, ...]

    def of(self, *kinds: str) -> list[Column]:
        return [c for c in self.columns if c.kind in kinds]

    @property
    def one(self) -> str:
        name = self.name.replace("_", " ")
        return name[:-3] + "y" if name.endswith("ies") else name[:-2] if name.endswith(("sses", "ches")) else name[:-1]

    @property
    def many(self) -> str:
        return self.name.replace("_", " ")


def invented(rng: random.Random) -> str:
    """A proper name that nobody has: two to four syllables."""
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4))).capitalize()
    return word if rng.random() < 0.7 else f"{word} {''.join(rng.choice(SYLLABLES) for _ in range(2)).capitalize()}"


def parse_table(rng: random.Random, name: str, text: str) -> Table:
    """One table with its columns; optional columns come and go so that schemas differ."""
    columns = []
    for position, part in enumerate(text.split()):
        if ">" in part:
            columns.append(Column(part.split(">")[0], "key", (part.split(">")[1],)))
            continue
        column, kind, *args = part.split(":")
        if position == 0 or rng.random() < 0.85:
            columns.append(Column(column, kind, tuple(args)))
    return Table(name, tuple(columns))


def value(rng: random.Random, column: Column) -> str:
    """A literal as SQL writes it."""
    match column.kind:
        case "name":
            return f"'{invented(rng)}'"
        case "word":
            return f"'{rng.choice(column.args[0].split('|'))}'"
        case "int":
            return str(rng.randint(int(column.args[0]), int(column.args[1])))
        case "real":
            return f"{rng.uniform(float(column.args[0]), float(column.args[1])):.1f}"
        case "year":
            return str(rng.randint(1850, 2025))
        case _:
            return f"'{rng.randint(1950, 2025)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}'"


def say(literal: str) -> str:
    return literal.strip("'")


def condition(rng: random.Random, table: Table, prefix: str = "") -> tuple[str, str] | None:
    """A WHERE clause and its English, such as ("height_m > 300", "with a height m above 300")."""
    columns = table.of("name", "word", "int", "real", "year", "date")
    if not columns:
        return None
    c = rng.choice(columns)
    q = f"{prefix}{c.name}"
    if c.kind == "date":
        return date_condition(rng, c, q)
    v = value(rng, c)
    if c.kind in ("name", "word"):
        if rng.random() < 0.2:
            return f"{q} <> {v}", rng.choice(
                [
                    f"whose {c.spoken} is not {say(v)}",
                    f"with a {c.spoken} other than {say(v)}",
                    f"that do not have {say(v)} as {c.spoken}",
                ]
            )
        return f"{q} = {v}", rng.choice(
            [
                f"whose {c.spoken} is {say(v)}",
                f"with {c.spoken} {say(v)}",
                f"with the {c.spoken} {say(v)}",
                f"where the {c.spoken} is {say(v)}",
                f"that have {say(v)} as {c.spoken}",
            ]
        )
    sign, words = rng.choice(
        [
            (">", "more than"),
            (">", "above"),
            (">", "over"),
            ("<", "less than"),
            ("<", "below"),
            ("<", "under"),
            (">=", "at least"),
            ("<=", "at most"),
            ("=", "exactly"),
        ]
    )
    if c.kind == "year":
        sign, words = rng.choice([(">", "after"), ("<", "before"), ("=", "in"), (">=", "from")])
        return f"{q} {sign} {v}", rng.choice(
            [f"{c.spoken} {words} {v}", f"whose {c.spoken} is {words} {v}", f"that were {c.spoken} {words} {v}"]
        )
    if rng.random() < 0.15:
        w = value(rng, c)
        low, high = sorted((v, w), key=float)
        return f"{q} BETWEEN {low} AND {high}", rng.choice(
            [f"with {c.spoken} between {low} and {high}", f"whose {c.spoken} lies from {low} to {high}"]
        )
    return f"{q} {sign} {v}", rng.choice(
        [f"with {words} {v} {c.spoken}", f"whose {c.spoken} is {words} {v}", f"with a {c.spoken} {words} {v}"]
    )


def date_condition(rng: random.Random, c: Column, q: str) -> tuple[str, str]:
    year, month = rng.randint(1950, 2025), rng.randint(1, 12)
    match rng.randrange(5):
        case 0:
            return f"strftime('%Y', {q}) = '{year}'", rng.choice(
                [f"{c.spoken} in {year}", f"with a {c.spoken} date in the year {year}"]
            )
        case 1:
            return f"{q} LIKE '{year}-{month:02d}%'", rng.choice(
                [f"{c.spoken} in {MONTHS[month - 1]} {year}", f"from {MONTHS[month - 1]} {year}"]
            )
        case 2:
            return f"strftime('%m', {q}) = '{month:02d}'", f"{c.spoken} in any {MONTHS[month - 1]}"
        case 3:
            day = f"{year}-{month:02d}-{rng.randint(1, 28):02d}"
            return f"{q} > '{day}'", rng.choice([f"{c.spoken} after {day}", f"later than {day} by {c.spoken}"])
        case _:
            day = f"{year}-{month:02d}-{rng.randint(1, 28):02d}"
            return f"{q} < '{day}'", rng.choice([f"{c.spoken} before {day}", f"earlier than {day} by {c.spoken}"])


def ask_list(rng: random.Random, t: Table, _: list[Table]) -> tuple[str, str] | None:
    where = condition(rng, t)
    if where is None:
        return None
    c = rng.choice(t.columns)
    if rng.random() < 0.3 and (more := condition(rng, t)):
        word = rng.choice(["AND", "AND", "OR"])
        where = (f"{where[0]} {word} {more[0]}", f"{where[1]} {word.lower()} {more[1]}")
    q = rng.choice(
        [
            f"Name the {c.spoken} of each of the {t.many} {where[1]}.",
            f"What {c.spoken} do {t.many} {where[1]} have?",
            f"Look up {c.spoken} for the {t.many} {where[1]}.",
            f"I need the {c.spoken} of {t.many} {where[1]}",
            f"For {t.many} {where[1]}, what is the {c.spoken}?",
        ]
    )
    return q, f"SELECT {c.name} FROM {t.name} WHERE {where[0]}"


def ask_count(rng: random.Random, t: Table, _: list[Table]) -> tuple[str, str] | None:
    where = condition(rng, t)
    if where is None or rng.random() < 0.1:
        return f"How big is the number of {t.many}?", f"SELECT COUNT(*) FROM {t.name}"
    q = rng.choice(
        [
            f"How many {t.many} are there {where[1]}?",
            f"What number of {t.many} is recorded {where[1]}?",
            f"Tell the count of {t.many} {where[1]}.",
            f"How many of the {t.many} {where[1]} do we have?",
        ]
    )
    return q, f"SELECT COUNT(*) FROM {t.name} WHERE {where[0]}"


AGGREGATES = {
    "AVG": ["average", "mean"],
    "SUM": ["total", "summed", "overall"],
    "MAX": ["largest", "highest", "greatest"],
    "MIN": ["smallest", "lowest", "least"],
}


def ask_aggregate(rng: random.Random, t: Table, _: list[Table]) -> tuple[str, str] | None:
    numbers = t.of("int", "real")
    if not numbers:
        return None
    c, fn = rng.choice(numbers), rng.choice(list(AGGREGATES))
    word = rng.choice(AGGREGATES[fn])
    where = condition(rng, t) if rng.random() < 0.5 else None
    tail, sql = (f" {where[1]}", f" WHERE {where[0]}") if where else ("", "")
    q = rng.choice(
        [
            f"What is the {word} {c.spoken} of the {t.many}{tail}?",
            f"Work out the {word} {c.spoken} over {t.many}{tail}.",
            f"The {word} {c.spoken} among {t.many}{tail}?",
        ]
    )
    return q, f"SELECT {fn}({c.name}) FROM {t.name}{sql}"


def ask_group(rng: random.Random, t: Table, _: list[Table]) -> tuple[str, str] | None:
    groups, numbers = t.of("word", "year"), t.of("int", "real")
    if not groups:
        return None
    g = rng.choice(groups)
    if numbers and rng.random() < 0.5:
        c, fn = rng.choice(numbers), rng.choice(list(AGGREGATES))
        word = rng.choice(AGGREGATES[fn])
        q = rng.choice(
            [
                f"For every {g.spoken}, give the {word} {c.spoken} of its {t.many}.",
                f"What is the {word} {c.spoken} per {g.spoken} in {t.many}?",
            ]
        )
        return q, f"SELECT {g.name}, {fn}({c.name}) FROM {t.name} GROUP BY {g.name}"
    if rng.random() < 0.3:
        n = rng.randint(1, 9)
        return (
            f"Which {g.spoken} values occur for more than {n} {t.many}?",
            f"SELECT {g.name} FROM {t.name} GROUP BY {g.name} HAVING COUNT(*) > {n}",
        )
    if rng.random() < 0.3:
        return (
            f"Which {g.spoken} has the most {t.many}?",
            f"SELECT {g.name} FROM {t.name} GROUP BY {g.name} ORDER BY COUNT(*) DESC LIMIT 1",
        )
    q = rng.choice(
        [
            f"Count {t.many} by {g.spoken}.",
            f"How many {t.many} does each {g.spoken} have?",
            f"Split the {t.many} by {g.spoken} and count them.",
        ]
    )
    return q, f"SELECT {g.name}, COUNT(*) FROM {t.name} GROUP BY {g.name}"


def ask_order(rng: random.Random, t: Table, _: list[Table]) -> tuple[str, str] | None:
    keys = t.of("int", "real", "year", "date")
    if not keys:
        return None
    c, k, down = rng.choice(t.columns), rng.choice(keys), rng.random() < 0.6
    n = rng.randint(1, 12)
    where = condition(rng, t) if rng.random() < 0.3 else None
    tail, sql = (f" {where[1]}", f" WHERE {where[0]}") if where else ("", "")
    high = rng.choice(["highest", "greatest", "largest"] if k.kind in ("int", "real") else ["latest", "newest"])
    low = rng.choice(["lowest", "smallest", "least"] if k.kind in ("int", "real") else ["earliest", "oldest"])
    word = high if down else low
    direction = " DESC" if down else rng.choice(["", " ASC"])
    if n == 1 or rng.random() < 0.4:
        q = rng.choice(
            [
                f"Which {t.one}{tail} has the {word} {k.spoken}? Give its {c.spoken}.",
                f"{c.spoken} of the {t.one} with the {word} {k.spoken}{tail}",
            ]
        )
        return q, f"SELECT {c.name} FROM {t.name}{sql} ORDER BY {k.name}{direction} LIMIT 1"
    if rng.random() < 0.3:
        return (
            f"Put the {c.spoken} of all {t.many}{tail} in order of {k.spoken}, {word} first.",
            f"SELECT {c.name} FROM {t.name}{sql} ORDER BY {k.name}{direction}",
        )
    q = rng.choice(
        [
            f"Give the {c.spoken} of the {n} {t.many}{tail} with the {word} {k.spoken}.",
            f"{n} {t.many}{tail} by {word} {k.spoken}: their {c.spoken}?",
        ]
    )
    return q, f"SELECT {c.name} FROM {t.name}{sql} ORDER BY {k.name}{direction} LIMIT {n}"


def ask_join(rng: random.Random, t: Table, tables: list[Table]) -> tuple[str, str] | None:
    keys = [c for c in t.of("key") if any(u.name == c.args[0] for u in tables)]
    if not keys:
        return None
    key = rng.choice(keys)
    other = next(u for u in tables if u.name == key.args[0])
    link = f"JOIN {other.name} ON {t.name}.{key.name} = {other.name}.id"
    where = condition(rng, other, f"{other.name}.")
    mine = t.of("name", "word", "int", "real", "year", "date")
    if where is None or not mine:
        return None
    c = rng.choice(mine)
    match rng.randrange(4):
        case 0:
            return (
                f"How many {t.many} belong to {other.many} {where[1]}?",
                f"SELECT COUNT(*) FROM {t.name} {link} WHERE {where[0]}",
            )
        case 1 if names := other.of("name"):
            g = rng.choice(names)
            return (
                f"For each of the {other.many}, by {g.spoken}, how many {t.many} are there?",
                f"SELECT {other.name}.{g.name}, COUNT(*) FROM {t.name} {link} GROUP BY {other.name}.{g.name}",
            )
        case 2:
            return (
                f"Which {other.many} have no {t.many} at all?",
                f"SELECT {rng.choice(other.columns).name} FROM {other.name} WHERE id NOT IN (SELECT {key.name} FROM {t.name})",
            )
        case _:
            q = rng.choice(
                [
                    f"{c.spoken} of {t.many} that belong to {other.many} {where[1]}?",
                    f"Take the {other.many} {where[1]}: what is the {c.spoken} of their {t.many}?",
                ]
            )
            return q, f"SELECT {t.name}.{c.name} FROM {t.name} {link} WHERE {where[0]}"


def ask_special(rng: random.Random, t: Table, _: list[Table]) -> tuple[str, str] | None:
    c, numbers, words = rng.choice(t.columns), t.of("int", "real"), t.of("word")
    match rng.randrange(4):
        case 0 if numbers:
            k = rng.choice(numbers)
            return (
                f"Which {t.many} lie above the usual {k.spoken}? Their {c.spoken}.",
                f"SELECT {c.name} FROM {t.name} WHERE {k.name} > (SELECT AVG({k.name}) FROM {t.name})",
            )
        case 1 if words:
            k = rng.choice(words)
            return f"What different {k.spoken} values do the {t.many} show?", f"SELECT DISTINCT {k.name} FROM {t.name}"
        case 2:
            return f"For which {t.many} is the {c.spoken} unknown?", f"SELECT id FROM {t.name} WHERE {c.name} IS NULL"
        case _ if names := t.of("name"):
            k, start = rng.choice(names), rng.choice(SYLLABLES).capitalize()
            return (
                f"{t.many} whose {k.spoken} begins with {start}",
                f"SELECT {k.name} FROM {t.name} WHERE {k.name} LIKE '{start}%'",
            )
    return None


ASKERS: list[Callable[[random.Random, Table, list[Table]], tuple[str, str] | None]] = [
    ask_list, ask_list, ask_count, ask_aggregate, ask_group, ask_order, ask_order, ask_join, ask_join, ask_special,
]  # fmt: skip


def schema(tables: list[Table]) -> str:
    kinds = {
        "name": "TEXT",
        "word": "TEXT",
        "int": "INTEGER",
        "real": "REAL",
        "year": "INTEGER",
        "date": "TEXT",
        "key": "INTEGER",
    }
    return "\n".join(
        f"CREATE TABLE {t.name} (id INTEGER, {', '.join(f'{c.name} {kinds[c.kind]}' for c in t.columns)})"
        for t in tables
    )


def world(rng: random.Random) -> list[Table]:
    return [parse_table(rng, name, text) for name, text in rng.choice(list(WORLDS.values())).items()]


def pairs(rng: random.Random, tables: list[Table], count: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while len(found) < count:
        pair = rng.choice(ASKERS)(rng, rng.choice(tables), tables)
        if pair is not None:
            found.append((pair[0][0].upper() + pair[0][1:] if rng.random() < 0.9 else pair[0].lower(), pair[1]))
    return found


LAYOUTS = [
    "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n",
    "Question: {q}\nSQL: {a}\n\n",
    "-- {q}\n{a};\n",
    "{q}\n{a}\n\n",
]


def document(rng: random.Random) -> str:
    """A schema and two to ten questions about it in one layout; the schema is left out of a quarter of them."""
    tables = world(rng)
    layout = rng.choice(LAYOUTS)
    body = "".join(layout.format(q=q, a=a) for q, a in pairs(rng, tables, rng.randint(2, 10)))
    if rng.random() < 0.25:
        return body
    if layout is LAYOUTS[0]:
        return f"<|im_start|>system\n{schema(tables)}<|im_end|>\n{body}"
    return f"{schema(tables)}\n\n{body}"


def month_document(rng: random.Random) -> str:
    """Months, their numbers and dates, which questions about time need."""
    lines = []
    for _ in range(rng.randint(3, 8)):
        m, y, d = rng.randint(1, 12), rng.randint(1950, 2025), rng.randint(1, 28)
        lines.append(rng.choice([
            f"{MONTHS[m - 1]} is month {m:02d} of the year.",
            f"{MONTHS[m - 1]} {d}, {y} is written {y}-{m:02d}-{d:02d}.",
            f"{y}-{m:02d} means {MONTHS[m - 1]} {y}.",
            f"The day {y}-{m:02d}-{d:02d} lies in {MONTHS[m - 1]}.",
        ]))  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    rng = random.Random(1)
    for _ in range(3):
        print(document(rng), "\n" + "=" * 60)
