"""The eight tables of the sample company, as SQLite declares them."""

from __future__ import annotations

TABLES = {
    "departments": "id INTEGER PRIMARY KEY, name TEXT, floor INTEGER, budget INTEGER",
    "employees": (
        "id INTEGER PRIMARY KEY, name TEXT, title TEXT, department_id INTEGER REFERENCES departments(id), "
        "city TEXT, salary INTEGER, hire_date TEXT"
    ),
    "customers": "id INTEGER PRIMARY KEY, name TEXT, city TEXT, country TEXT, segment TEXT, signup_date TEXT",
    "suppliers": "id INTEGER PRIMARY KEY, name TEXT, country TEXT, rating REAL",
    "products": (
        "id INTEGER PRIMARY KEY, name TEXT, category TEXT, price REAL, stock INTEGER, "
        "supplier_id INTEGER REFERENCES suppliers(id)"
    ),
    "orders": (
        "id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), "
        "employee_id INTEGER REFERENCES employees(id), order_date TEXT, status TEXT, total REAL"
    ),
    "order_items": (
        "id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders(id), "
        "product_id INTEGER REFERENCES products(id), quantity INTEGER, unit_price REAL"
    ),
    "shipments": (
        "id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders(id), carrier TEXT, ship_date TEXT, cost REAL"
    ),
}
"""Table name -> its columns; a date is text, YYYY-MM-DD; money is in one unnamed currency."""


def create_statements() -> list[str]:
    """One CREATE TABLE per table, parents before children."""
    return [f"CREATE TABLE {table} ({columns})" for table, columns in TABLES.items()]
