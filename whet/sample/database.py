"""Fills the sample company's database: the same seed gives the same bytes."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from whet.sample import words
from whet.sample.schema import create_statements

Rows = list[tuple[object, ...]]

N_ORDERS = 160
_QUIET_CUSTOMERS = 10  # the last customers never order: questions with "no orders" need an answer
_VERSION_FIELDS = slice(92, 100)  # SQLite file format, 1.3: who wrote the file last, and at which change


class Dice:
    """Draws that stay the same in every Python: only ``random()`` is promised to."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]

    def day(self, first_year: int, last_year: int) -> str:
        """A date as YYYY-MM-DD; days stop at the 28th."""
        year, month = self.integer(first_year, last_year), self.integer(1, 12)
        return f"{year}-{month:02d}-{self.integer(1, 28):02d}"


def company_rows(seed: int) -> dict[str, Rows]:
    """All rows of all tables, in the order of their ids."""
    dice = Dice(seed)
    rows: dict[str, Rows] = {
        "departments": [
            (i + 1, name, i // 2 + 1, 15_000 * dice.integer(8, 40)) for i, name in enumerate(words.DEPARTMENTS)
        ],
        "employees": [_employee(dice, i) for i in range(len(words.EMPLOYEES))],
        "customers": [_customer(dice, i) for i in range(len(words.CUSTOMERS))],
        "suppliers": [_supplier(dice, i) for i in range(len(words.SUPPLIERS))],
        "products": _products(dice),
    }
    rows["orders"], rows["order_items"] = _orders(dice, rows)
    rows["shipments"] = _shipments(dice, rows["orders"])
    return rows


def _employee(dice: Dice, i: int) -> tuple[object, ...]:
    department = i % len(words.DEPARTMENTS) + 1
    salary = 28_000 + 10 * dice.integer(1, 6_900)
    hired = dice.day(2012, 2023)
    return (i + 1, words.EMPLOYEES[i], dice.pick(words.TITLES), department, dice.pick(words.OFFICES), salary, hired)


def _customer(dice: Dice, i: int) -> tuple[object, ...]:
    country = dice.pick(tuple(words.CITIES))
    city = dice.pick(words.CITIES[country])
    return (i + 1, words.CUSTOMERS[i], city, country, dice.pick(words.SEGMENTS), dice.day(2016, 2022))


def _supplier(dice: Dice, i: int) -> tuple[object, ...]:
    country = words.SUPPLIER_COUNTRIES[i % len(words.SUPPLIER_COUNTRIES)]
    return (i + 1, words.SUPPLIERS[i], country, dice.integer(21, 49) / 10)


def _products(dice: Dice) -> Rows:
    named = [(category, name) for category, names in words.PRODUCTS.items() for name in names]
    order = sorted(range(len(named)), key=lambda i: (i % 6, i))  # neighbours are of different categories
    rows: Rows = []
    for number, i in enumerate(order, start=1):
        category, name = named[i]
        price = dice.integer(8, 240) + dice.integer(1, 9) / 10
        rows.append((number, name, category, price, dice.integer(3, 220), dice.integer(1, len(words.SUPPLIERS))))
    return rows


def _orders(dice: Dice, rows: dict[str, Rows]) -> tuple[Rows, Rows]:
    """Orders with one to three items each; the total of an order is the sum of its items."""
    sellers = [
        row[0] for row in rows["employees"] if words.DEPARTMENTS[int(str(row[3])) - 1] in words.SELLING_DEPARTMENTS
    ]
    idle = {words.PRODUCTS[category][-1] for category in words.UNORDERED_CATEGORIES}
    sold = [row for row in rows["products"] if row[1] not in idle]
    orders: Rows = []
    items: Rows = []
    days = sorted(dice.day(words.ORDER_YEARS[0], words.ORDER_YEARS[-1]) for _ in range(N_ORDERS))
    for number, day in enumerate(days, start=1):
        basket = {dice.integer(0, len(sold) - 1) for _ in range(dice.integer(1, 3))}
        total = 0.0
        for index in sorted(basket):
            product, price, quantity = sold[index][0], float(str(sold[index][3])), dice.integer(1, 12)
            items.append((len(items) + 1, number, product, quantity, price))
            total += quantity * price
        customer = dice.integer(1, len(words.CUSTOMERS) - _QUIET_CUSTOMERS)
        seller = sellers[dice.integer(0, len(sellers) - 1)]
        orders.append((number, customer, seller, day, _status(dice), round(total, 2)))
    return orders, items


def _status(dice: Dice) -> str:
    return dice.pick(("delivered", "delivered", *words.STATUSES))


def _shipments(dice: Dice, orders: Rows) -> Rows:
    """Most orders leave within a month; the others have not been shipped."""
    rows: Rows = []
    for order in orders:
        if dice.integer(1, 10) <= 7:
            year, month, day = (int(part) for part in str(order[3]).split("-"))
            later = (month, dice.integer(day, 28)) if day < 20 else (month % 12 + 1, dice.integer(1, 14))
            date = f"{year + (later[0] < month)}-{later[0]:02d}-{later[1]:02d}"
            rows.append((len(rows) + 1, order[0], dice.pick(words.CARRIERS), date, dice.integer(50, 999) / 10))
    return rows


def fill(connection: sqlite3.Connection, seed: int) -> None:
    """Create and fill all tables in an open, empty database."""
    with connection:
        for statement in create_statements():
            connection.execute(statement)
        for table, rows in company_rows(seed).items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def write_database(path: Path, seed: int) -> Path:
    """Write the database as one SQLite file; an existing file is replaced at the end, in one step.

    The header's record of the SQLite version that wrote the file is cleared, so that the bytes do not depend on it.
    Source: https://www.sqlite.org/fileformat.html, section 1.3.
    """
    beside = path.with_name(path.name + ".part")
    beside.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(beside)) as connection:
            connection.execute("PRAGMA page_size = 4096")
            fill(connection, seed)
        content = bytearray(beside.read_bytes())
        content[_VERSION_FIELDS] = bytes(8)
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
