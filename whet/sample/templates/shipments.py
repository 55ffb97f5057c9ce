"""Questions about shipments."""

from __future__ import annotations

from whet.sample.template import Template

_ORDERS = "shipments JOIN orders ON shipments.order_id = orders.id"
_CUSTOMERS = f"{_ORDERS} JOIN customers ON orders.customer_id = customers.id"

TEMPLATES = (
    Template(
        "shipment_carrier",
        "SELECT carrier FROM shipments WHERE order_id = {order}",
        (
            "Which carrier shipped order {order}?",
            "Who shipped order {order}?",
            "What is the carrier of order {order}?",
            "Show the carrier of order {order}.",
            "Order {order} was shipped by which carrier?",
        ),
    ),
    Template(
        "shipment_date",
        "SELECT ship_date FROM shipments WHERE order_id = {order}",
        (
            "When was order {order} shipped?",
            "What is the ship date of order {order}?",
            "On which date was order {order} shipped?",
            "On what day did we ship order {order}?",
            "Show the ship date of order {order}.",
        ),
        ("Tell me when order {order} was shipped.",),
    ),
    Template(
        "shipment_cost",
        "SELECT cost FROM shipments WHERE order_id = {order}",
        (
            "How much did the shipment of order {order} cost?",
            "What was the shipping cost of order {order}?",
            "What did it cost to ship order {order}?",
            "Show the shipping cost of order {order}.",
        ),
        ("How much did it cost to ship order {order}?", "Tell me the shipping cost of order {order}."),
    ),
    Template(
        "carrier_expensive",
        "SELECT order_id FROM shipments WHERE carrier = '{carrier}' AND cost > {cost}",
        (
            "Which orders did {carrier} ship for more than {cost}?",
            "List the orders shipped by {carrier} that cost more than {cost}.",
            "Show the orders shipped by {carrier} with a shipping cost above {cost}.",
            "What orders shipped by {carrier} had a shipping cost over {cost}?",
        ),
        ("Which orders shipped by {carrier} cost more than {cost}?",),
    ),
    Template(
        "carrier_total_cost",
        "SELECT SUM(cost) FROM shipments WHERE carrier = '{carrier}' AND strftime('%Y', ship_date) = '{year}'",
        (
            "What was the total shipping cost of {carrier} in {year}?",
            "How much did we pay {carrier} in {year}?",
            "Show the total cost of the shipments with {carrier} in {year}.",
            "How much did shipments with {carrier} cost in total in {year}?",
        ),
        ("In {year}, what was the total shipping cost of {carrier}?",),
    ),
    Template(
        "average_cost_per_carrier",
        "SELECT carrier, AVG(cost) FROM shipments WHERE strftime('%Y-%m', ship_date) = '{month}' GROUP BY carrier",
        (
            "What was the average shipping cost per carrier in {month}?",
            "Show the average shipping cost by carrier for {month}.",
            "For each carrier, what was the average shipping cost in {month}?",
            "Average shipping cost of each carrier in {month}?",
        ),
        ("In {month}, what was the average shipping cost per carrier?",),
    ),
    Template(
        "orders_not_shipped",
        "SELECT id FROM orders WHERE strftime('%Y', order_date) = '{year}' AND total > {total} "
        "AND id NOT IN (SELECT order_id FROM shipments)",
        (
            "Which orders from {year} above {total} were not shipped?",
            "List the orders of {year} worth more than {total} that were not shipped.",
            "Show the orders from {year} over {total} without a shipment.",
            "What orders above {total} from {year} have not been shipped?",
        ),
        ("In {year}, which orders above {total} were not shipped?",),
    ),
    Template(
        "carrier_customers",
        f"SELECT DISTINCT customers.name FROM {_CUSTOMERS} WHERE shipments.carrier = '{{carrier}}' "
        "AND customers.country = '{country}'",
        (
            "Which customers in {country} got a shipment from {carrier}?",
            "List the customers in {country} served by {carrier}.",
            "Show all customers from {country} who got a shipment with {carrier}.",
            "Who in {country} received shipments from {carrier}?",
        ),
        ("In {country}, which customers got a shipment from {carrier}?",),
    ),
)
