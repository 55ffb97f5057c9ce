"""Questions about products and suppliers."""

from __future__ import annotations

from whet.sample.template import Template

_JOIN = "products JOIN suppliers ON products.supplier_id = suppliers.id"

TEMPLATES = (
    Template(
        "product_price",
        "SELECT price FROM products WHERE name = '{product}'",
        (
            "What is the price of the {product}?",
            "How much does the {product} cost?",
            "What does the {product} cost?",
            "Show the price of the {product}.",
            "Price of the {product}?",
            "Tell me the price of the {product}.",
        ),
        ("How expensive is the {product}?",),
    ),
    Template(
        "product_stock",
        "SELECT stock FROM products WHERE name = '{product}'",
        (
            "How many pieces of the {product} are in stock?",
            "What is the stock of the {product}?",
            "How much stock of the {product} do we have?",
            "Show the stock of the {product}.",
            "How many of the {product} do we have in stock?",
        ),
        ("How many pieces of the {product} do we have in stock?",),
    ),
    Template(
        "product_category",
        "SELECT category FROM products WHERE name = '{product}'",
        (
            "Which category is the {product} in?",
            "What is the category of the {product}?",
            "What category does the {product} belong to?",
            "Show the category of the {product}.",
        ),
        ("The {product} belongs to which category?",),
    ),
    Template(
        "product_supplier",
        f"SELECT suppliers.name FROM {_JOIN} WHERE products.name = '{{product}}'",
        (
            "Which supplier delivers the {product}?",
            "Who supplies the {product}?",
            "What is the supplier of the {product}?",
            "Who is the supplier of the {product}?",
            "Show the supplier of the {product}.",
        ),
        ("Tell me who supplies the {product}.", "From which supplier do we get the {product}?"),
    ),
    Template(
        "products_cheaper",
        "SELECT name FROM products WHERE category = '{category}' AND price < {price}",
        (
            "Which {category} products cost less than {price}?",
            "List the {category} products that cost less than {price}.",
            "Show all {category} products with a price below {price}.",
            "What {category} products are cheaper than {price}?",
            "Which products in the {category} category cost under {price}?",
        ),
        ("Name the {category} products with a price under {price}.",),
    ),
    Template(
        "products_dearer",
        "SELECT name FROM products WHERE category = '{category}' AND price > {price}",
        (
            "Which {category} products cost more than {price}?",
            "List the {category} products that cost more than {price}.",
            "Show all {category} products with a price above {price}.",
            "What {category} products are more expensive than {price}?",
            "Which products in the {category} category cost over {price}?",
        ),
        ("Name the {category} products with a price over {price}.",),
    ),
    Template(
        "products_low_stock",
        "SELECT name FROM products WHERE category = '{category}' AND stock < {stock}",
        (
            "Which {category} products have a stock below {stock}?",
            "List the {category} products with fewer than {stock} pieces in stock.",
            "Show all {category} products with less than {stock} in stock.",
            "What {category} products have a stock under {stock}?",
        ),
        ("Of which {category} products do we have fewer than {stock} in stock?",),
    ),
    Template(
        "products_cheapest",
        "SELECT name FROM products WHERE category = '{category}' ORDER BY price LIMIT {n}",
        (
            "What are the {n} cheapest {category} products?",
            "List the {n} cheapest products in the {category} category.",
            "Show the {n} {category} products with the lowest price.",
            "Which {n} {category} products cost the least?",
        ),
        ("Name the {n} {category} products that cost the least.",),
    ),
    Template(
        "products_most_expensive",
        "SELECT name FROM products WHERE category = '{category}' ORDER BY price DESC LIMIT {n}",
        (
            "What are the {n} most expensive {category} products?",
            "List the {n} most expensive products in the {category} category.",
            "Show the {n} {category} products with the highest price.",
            "Which {n} {category} products cost the most?",
        ),
        ("Name the {n} {category} products that cost the most.",),
    ),
    Template(
        "products_of_supplier",
        f"SELECT products.name FROM {_JOIN} WHERE suppliers.name = '{{supplier}}' AND products.price > {{price}}",
        (
            "Which products from {supplier} cost more than {price}?",
            "What products above {price} does {supplier} deliver?",
            "List the products supplied by {supplier} that cost more than {price}.",
            "Show the products of {supplier} with a price above {price}.",
        ),
        ("Which products with a price above {price} come from {supplier}?",),
    ),
    Template(
        "products_supplier_country",
        f"SELECT products.name FROM {_JOIN} WHERE suppliers.country = '{{supplier_country}}' "
        "AND products.category = '{category}'",
        (
            "Which {category} products come from suppliers in {supplier_country}?",
            "List the {category} products from {supplier_country}.",
            "Show all {category} products supplied from {supplier_country}.",
            "What {category} products do we get from {supplier_country}?",
        ),
        ("Which {category} products do suppliers in {supplier_country} deliver?",),
    ),
    Template(
        "supplier_average_price",
        f"SELECT AVG(products.price) FROM {_JOIN} WHERE suppliers.name = '{{supplier}}'",
        (
            "What is the average price of products from {supplier}?",
            "How much do products from {supplier} cost on average?",
            "Show the average price of the products supplied by {supplier}.",
            "Average product price of {supplier}?",
        ),
        ("On average, how much do products from {supplier} cost?",),
    ),
    Template(
        "supplier_rating",
        "SELECT rating FROM suppliers WHERE name = '{supplier}'",
        (
            "What is the rating of {supplier}?",
            "Which rating does {supplier} have?",
            "How is the supplier {supplier} rated?",
            "Show the rating of the supplier {supplier}.",
        ),
        ("Tell me the rating of {supplier}.",),
    ),
    Template(
        "suppliers_rating_not_country",
        "SELECT name FROM suppliers WHERE rating > {rating} AND country != '{supplier_country}'",
        (
            "Which suppliers outside {supplier_country} have a rating above {rating}?",
            "List the suppliers not in {supplier_country} with a rating over {rating}.",
            "Show suppliers rated above {rating} that are not from {supplier_country}.",
            "What suppliers with a rating above {rating} are not in {supplier_country}?",
        ),
        ("Name the suppliers that are not in {supplier_country} and have a rating above {rating}.",),
    ),
)
