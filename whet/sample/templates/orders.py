"""Questions about orders: when, how much, by whom."""

from __future__ import annotations

from whet.sample.template import Template

_CUSTOMERS = "orders JOIN customers ON orders.customer_id = customers.id"
_EMPLOYEES = "orders JOIN employees ON orders.employee_id = employees.id"

TEMPLATES = (
    Template(
        "order_date",
        "SELECT order_date FROM orders WHERE id = {order}",
        (
            "When was order {order} placed?",
            "What is the date of order {order}?",
            "On which date was order {order} placed?",
            "Show the order date of order {order}.",
            "What date was order number {order} placed?",
            "Tell me when order {order} was placed.",
        ),
        ("On what day was order {order} placed?",),
    ),
    Template(
        "order_total",
        "SELECT total FROM orders WHERE id = {order}",
        (
            "What is the total of order {order}?",
            "How much is order {order} worth?",
            "What is the value of order {order}?",
            "Show the total of order number {order}.",
        ),
        ("Tell me the total of order {order}.", "How high is the total of order {order}?"),
    ),
    Template(
        "order_customer",
        f"SELECT customers.name FROM {_CUSTOMERS} WHERE orders.id = {{order}}",
        (
            "Which customer placed order {order}?",
            "Who placed order {order}?",
            "Who is the customer of order {order}?",
            "Show the customer of order {order}.",
            "Order {order} was placed by which customer?",
        ),
        ("Tell me which customer placed order {order}.",),
    ),
    Template(
        "order_employee",
        f"SELECT employees.name FROM {_EMPLOYEES} WHERE orders.id = {{order}}",
        (
            "Which employee handled order {order}?",
            "Who handled order {order}?",
            "Who is the employee in charge of order {order}?",
            "Show the employee who handled order {order}.",
            "Order {order} was handled by which employee?",
        ),
        ("Tell me which employee handled order {order}.",),
    ),
    Template(
        "orders_month",
        "SELECT id FROM orders WHERE strftime('%Y-%m', order_date) = '{month}'",
        (
            "Which orders were placed in {month}?",
            "List the orders from {month}.",
            "Show all orders placed in {month}.",
            "What orders do we have from {month}?",
            "Give me the orders of {month}.",
            "In {month}, which orders were placed?",
        ),
        ("Which orders do we have from {month}?",),
    ),
    Template(
        "revenue_month",
        "SELECT SUM(total) FROM orders WHERE strftime('%Y-%m', order_date) = '{month}'",
        (
            "What was the revenue in {month}?",
            "How much revenue did we make in {month}?",
            "What is the total value of the orders in {month}?",
            "Show the revenue of {month}.",
            "Revenue in {month}?",
            "In {month}, what was the revenue?",
        ),
        ("Tell me the revenue in {month}.", "How high was the revenue in {month}?"),
    ),
    Template(
        "orders_status_since",
        "SELECT id FROM orders WHERE status = '{status}' AND order_date >= '{since}'",
        (
            "Which orders placed since {since} are {status}?",
            "List the {status} orders since {since}.",
            "Show all {status} orders placed since {since}.",
            "What {status} orders do we have since {since}?",
        ),
        ("Since {since}, which orders are {status}?",),
    ),
    Template(
        "orders_status_count",
        "SELECT COUNT(*) FROM orders WHERE status = '{status}' AND total > {total}",
        (
            "How many {status} orders have a total above {total}?",
            "How many {status} orders are worth more than {total}?",
            "Count the {status} orders with a total over {total}.",
            "What is the number of {status} orders above {total}?",
        ),
        ("How many orders with a total above {total} are {status}?",),
    ),
    Template(
        "revenue_status_year",
        "SELECT SUM(total) FROM orders WHERE status = '{status}' AND strftime('%Y', order_date) = '{year}'",
        (
            "What is the total value of {status} orders in {year}?",
            "How much are the {status} orders of {year} worth in total?",
            "Show the total of all {status} orders from {year}.",
            "Add up the {status} orders of {year}.",
        ),
        ("In {year}, what was the total value of {status} orders?",),
    ),
    Template(
        "orders_above_year",
        "SELECT id FROM orders WHERE total > {total} AND strftime('%Y', order_date) = '{year}'",
        (
            "Which orders in {year} have a total above {total}?",
            "List the orders of {year} that are worth more than {total}.",
            "Show all orders from {year} over {total}.",
            "What orders in {year} were worth more than {total}?",
        ),
        ("In {year}, which orders were worth more than {total}?",),
    ),
    Template(
        "orders_not_status",
        "SELECT id FROM orders WHERE status != '{status}' AND strftime('%Y-%m', order_date) = '{month}'",
        (
            "Which orders from {month} are not {status}?",
            "List the orders of {month} that are not {status}.",
            "Show all orders placed in {month} that are not {status}.",
            "What orders from {month} have a status other than {status}?",
        ),
        ("Of the orders in {month}, which are not {status}?",),
    ),
    Template(
        "smallest_orders",
        "SELECT id FROM orders WHERE status = '{status}' ORDER BY total LIMIT {n}",
        (
            "What are the {n} smallest {status} orders?",
            "List the {n} {status} orders with the lowest total.",
            "Which {n} {status} orders have the smallest total?",
            "Show the {n} smallest orders that are {status}.",
        ),
        ("Name the {n} {status} orders with the smallest total.",),
    ),
    Template(
        "revenue_per_month",
        "SELECT strftime('%m', order_date), SUM(total) FROM orders WHERE strftime('%Y', order_date) = '{year}' "
        "AND status = '{status}' GROUP BY strftime('%m', order_date)",
        (
            "What is the total of {status} orders per month in {year}?",
            "Show the value of the {status} orders by month for {year}.",
            "For each month of {year}, what is the total of the {status} orders?",
            "Total of {status} orders in each month of {year}?",
        ),
    ),
    Template(
        "customer_order_count",
        f"SELECT COUNT(*) FROM {_CUSTOMERS} WHERE customers.name = '{{customer}}'",
        (
            "How many orders did {customer} place?",
            "How many orders does {customer} have?",
            "Count the orders of {customer}.",
            "What is the number of orders from {customer}?",
        ),
        ("How many times did {customer} order?",),
    ),
    Template(
        "customer_spending",
        f"SELECT SUM(orders.total) FROM {_CUSTOMERS} WHERE customers.name = '{{customer}}'",
        (
            "How much did {customer} spend in total?",
            "What is the total value of the orders from {customer}?",
            "How much money did {customer} spend?",
            "Show the total spending of {customer}.",
            "Add up all orders of {customer}.",
        ),
        ("In total, how much did {customer} spend?", "What did {customer} spend in total?"),
    ),
    Template(
        "customer_last_order",
        f"SELECT MAX(orders.order_date) FROM {_CUSTOMERS} WHERE customers.name = '{{customer}}'",
        (
            "When did {customer} place the last order?",
            "What is the date of the last order from {customer}?",
            "When was the most recent order of {customer}?",
            "Show the date of the latest order by {customer}.",
        ),
        ("When did {customer} last place an order?",),
    ),
    Template(
        "customer_orders_status",
        f"SELECT orders.id FROM {_CUSTOMERS} WHERE customers.name = '{{customer}}' AND orders.status = '{{status}}'",
        (
            "Which orders of {customer} are {status}?",
            "List the {status} orders of {customer}.",
            "What {status} orders does {customer} have?",
            "Show all orders from {customer} that are {status}.",
        ),
        ("Which {status} orders does {customer} have?",),
    ),
    Template(
        "revenue_country_year",
        f"SELECT SUM(orders.total) FROM {_CUSTOMERS} WHERE customers.country = '{{country}}' "
        "AND strftime('%Y', orders.order_date) = '{year}'",
        (
            "What was the revenue from customers in {country} in {year}?",
            "How much did customers from {country} spend in {year}?",
            "Show the {year} revenue from customers in {country}.",
            "What is the total value of orders from {country} in {year}?",
        ),
        ("In {year}, how much did customers in {country} spend?",),
    ),
    Template(
        "revenue_per_segment",
        f"SELECT customers.segment, SUM(orders.total) FROM {_CUSTOMERS} "
        "WHERE strftime('%Y-%m', orders.order_date) = '{month}' GROUP BY customers.segment",
        (
            "What was the revenue per customer segment in {month}?",
            "Show the revenue by segment for {month}.",
            "For each segment, what was the revenue in {month}?",
            "How much revenue did each segment bring in {month}?",
        ),
        ("In {month}, what was the revenue per segment?",),
    ),
    Template(
        "orders_per_country",
        f"SELECT customers.country, COUNT(*) FROM {_CUSTOMERS} WHERE orders.total > {{total}} "
        "AND orders.status = '{status}' GROUP BY customers.country",
        (
            "How many {status} orders above {total} are there per country?",
            "Count the {status} orders over {total} by country.",
            "For each country, how many {status} orders are worth more than {total}?",
            "Show the number of {status} orders above {total} in each country.",
        ),
    ),
    Template(
        "employee_sales_year",
        f"SELECT SUM(orders.total) FROM {_EMPLOYEES} WHERE employees.name = '{{employee}}' "
        "AND strftime('%Y', orders.order_date) = '{year}'",
        (
            "How much did {employee} sell in {year}?",
            "What is the total of the orders handled by {employee} in {year}?",
            "Show the sales of {employee} in {year}.",
            "What were the sales of {employee} in {year}?",
            "In {year}, how much did {employee} sell?",
        ),
    ),
    Template(
        "top_sellers",
        f"SELECT employees.name FROM {_EMPLOYEES} WHERE strftime('%Y', orders.order_date) = '{{year}}' "
        "GROUP BY employees.name ORDER BY SUM(orders.total) DESC LIMIT {n}",
        (
            "Who were the top {n} employees by sales in {year}?",
            "Which {n} employees sold the most in {year}?",
            "List the {n} employees with the highest sales in {year}.",
            "Show the {n} best sellers among our employees in {year}.",
        ),
    ),
)
