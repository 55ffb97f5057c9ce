"""Questions about what was ordered."""

from __future__ import annotations

from whet.sample.template import Template

_PRODUCTS = "order_items JOIN products ON order_items.product_id = products.id"
_BASKET = f"{_PRODUCTS} JOIN orders ON order_items.order_id = orders.id"
_BUYERS = f"{_BASKET} JOIN customers ON orders.customer_id = customers.id"

TEMPLATES = (
    Template(
        "order_products",
        f"SELECT products.name FROM {_PRODUCTS} WHERE order_items.order_id = {{order}}",
        (
            "Which products are in order {order}?",
            "What products does order {order} contain?",
            "List the products in order {order}.",
            "Show the products of order number {order}.",
            "What was bought in order {order}?",
        ),
        ("Order {order} contains which products?", "Name the products in order {order}."),
    ),
    Template(
        "order_quantity",
        "SELECT SUM(quantity) FROM order_items WHERE order_id = {order}",
        (
            "How many pieces are in order {order}?",
            "How many pieces does order {order} contain?",
            "What is the total quantity of order {order}?",
            "Show the total quantity in order number {order}.",
        ),
        ("Order {order} contains how many pieces?",),
    ),
    Template(
        "product_units_sold",
        f"SELECT SUM(order_items.quantity) FROM {_PRODUCTS} WHERE products.name = '{{product}}'",
        (
            "How many pieces of the {product} were sold?",
            "How many pieces of the {product} have we sold?",
            "What is the total quantity sold of the {product}?",
            "How many of the {product} did customers buy?",
            "Show the quantity sold of the {product}.",
        ),
        ("How many pieces of the {product} did we sell?",),
    ),
    Template(
        "category_units_year",
        f"SELECT SUM(order_items.quantity) FROM {_BASKET} WHERE products.category = '{{category}}' "
        "AND strftime('%Y', orders.order_date) = '{year}'",
        (
            "How many pieces of {category} products were sold in {year}?",
            "How many pieces of {category} products did we sell in {year}?",
            "What quantity of {category} products was sold in {year}?",
            "Show the quantity of {category} products sold in {year}.",
        ),
        ("In {year}, how many pieces of {category} products were sold?",),
    ),
    Template(
        "products_ordered_month",
        f"SELECT DISTINCT products.name FROM {_BASKET} WHERE strftime('%Y-%m', orders.order_date) = '{{month}}'",
        (
            "Which products were ordered in {month}?",
            "List the products that were ordered in {month}.",
            "Show all products ordered in {month}.",
            "What products did customers order in {month}?",
        ),
        ("In {month}, which products were ordered?",),
    ),
    Template(
        "products_of_customer",
        f"SELECT DISTINCT products.name FROM {_BUYERS} WHERE customers.name = '{{customer}}'",
        (
            "Which products did {customer} buy?",
            "What products has {customer} bought?",
            "List the products bought by {customer}.",
            "Show all products that {customer} bought.",
            "What did {customer} buy?",
        ),
        ("Name the products that {customer} has bought.",),
    ),
    Template(
        "buyers_of_product",
        f"SELECT DISTINCT customers.name FROM {_BUYERS} WHERE products.name = '{{product}}'",
        (
            "Which customers bought the {product}?",
            "Who bought the {product}?",
            "List the customers who bought the {product}.",
            "Show all customers that have bought the {product}.",
            "Who are the buyers of the {product}?",
        ),
        ("Name the customers who have bought the {product}.",),
    ),
    Template(
        "buyers_of_category",
        f"SELECT DISTINCT customers.name FROM {_BUYERS} WHERE products.category = '{{category}}' "
        "AND customers.country = '{country}'",
        (
            "Which customers in {country} bought {category} products?",
            "Who in {country} bought {category} products?",
            "List the customers from {country} who bought {category} products.",
            "Show all customers in {country} that have bought {category} products.",
        ),
        ("In {country}, which customers bought {category} products?",),
    ),
    Template(
        "category_best_sellers",
        f"SELECT products.name FROM {_PRODUCTS} WHERE products.category = '{{category}}' "
        "GROUP BY products.name ORDER BY SUM(order_items.quantity) DESC LIMIT {n}",
        (
            "What are the {n} best selling {category} products?",
            "Which {n} {category} products sold the most pieces?",
            "List the {n} {category} products with the highest quantity sold.",
            "Show the top {n} {category} products by quantity sold.",
        ),
        ("Name the {n} {category} products that sold the most pieces.",),
    ),
)
