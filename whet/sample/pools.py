"""The values that fill the slots of the templates: as people write them, and as SQL writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.sample import words


@dataclass(frozen=True)
class Value:
    """One value: ``text`` stands in the question, ``sql`` in the query."""

    text: str
    sql: str


def _same(values: Iterable[object]) -> tuple[Value, ...]:
    return tuple(Value(str(value), str(value)) for value in values)


def _months(years: Iterable[int], suffix: str) -> tuple[Value, ...]:
    return tuple(
        Value(f"{month} {year}", f"{year}-{number:02d}{suffix}")
        for year in years
        for number, month in enumerate(words.MONTHS, start=1)
    )


POOLS: dict[str, tuple[Value, ...]] = {
    # people
    "employee": _same(words.EMPLOYEES),
    "title": _same(words.TITLES),
    "department": _same(words.DEPARTMENTS),
    "office": _same(words.OFFICES),
    "salary": _same(range(32_000, 92_000, 2_000)),
    "low_salary": _same(range(30_000, 56_000, 5_000)),
    "high_salary": _same(range(60_000, 91_000, 6_000)),
    "hire_year": _same(range(2012, 2024)),
    "hire_month": _months(range(2013, 2023), "-01"),
    "budget": _same(range(150_000, 560_000, 30_000)),
    # customers
    "customer": _same(words.CUSTOMERS),
    "city": _same(city for cities in words.CITIES.values() for city in cities),
    "country": _same(words.CITIES),
    "segment": _same(words.SEGMENTS),
    "signup_year": _same(range(2016, 2023)),
    "signup_month": _months(range(2017, 2022), "-01"),
    # products and suppliers
    "product": _same(name for names in words.PRODUCTS.values() for name in names),
    "category": _same(words.PRODUCTS),
    "supplier": _same(words.SUPPLIERS),
    "supplier_country": _same(words.SUPPLIER_COUNTRIES),
    "rating": _same(f"{number / 10:.1f}" for number in range(22, 46, 2)),
    "price": _same(range(20, 230, 15)),
    "low_price": _same(range(10, 70, 10)),
    "high_price": _same(range(90, 240, 25)),
    "stock": _same(range(20, 210, 15)),
    # orders and shipments
    "order": _same(range(1, 161)),
    "status": _same(words.STATUSES),
    "year": _same(words.ORDER_YEARS),
    "month": _months(words.ORDER_YEARS, ""),
    "since": _months((2022, 2023), "-01"),
    "total": _same(range(200, 3_000, 150)),
    "quantity": _same(range(5, 12)),
    "carrier": _same(words.CARRIERS),
    "cost": _same(range(20, 95, 5)),
    # how many
    "n": _same(range(2, 7)),
    "few": _same(range(2, 8)),
}
