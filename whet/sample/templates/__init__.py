"""The templates of the sample task, by subject."""

from __future__ import annotations

from whet.sample.template import Template
from whet.sample.templates import customers, departments, items, orders, people, products, shipments

TEMPLATES: tuple[Template, ...] = (
    people.TEMPLATES
    + departments.TEMPLATES
    + customers.TEMPLATES
    + products.TEMPLATES
    + orders.TEMPLATES
    + items.TEMPLATES
    + shipments.TEMPLATES
)
