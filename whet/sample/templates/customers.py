"""Questions about customers."""

from __future__ import annotations

from whet.sample.template import Template

_ORDERS = "customers JOIN orders ON orders.customer_id = customers.id"

TEMPLATES = (
    Template(
        "customer_city",
        "SELECT city FROM customers WHERE name = '{customer}'",
        (
            "In which city is the customer {customer}?",
            "Which city is {customer} in?",
            "Where is the customer {customer} located?",
            "What is the city of {customer}?",
            "Show the city of the customer {customer}.",
        ),
        ("{customer} is in which city?", "Tell me the city of the customer {customer}."),
    ),
    Template(
        "customer_segment",
        "SELECT segment FROM customers WHERE name = '{customer}'",
        (
            "Which segment is {customer} in?",
            "What is the segment of {customer}?",
            "Which customer segment does {customer} belong to?",
            "Show the segment of {customer}.",
        ),
        ("{customer} belongs to which segment?",),
    ),
    Template(
        "customer_signup",
        "SELECT signup_date FROM customers WHERE name = '{customer}'",
        (
            "When did {customer} sign up?",
            "What is the signup date of {customer}?",
            "On which date did {customer} sign up?",
            "Show the signup date of {customer}.",
            "When did the customer {customer} sign up with us?",
        ),
        ("On what day did {customer} sign up?",),
    ),
    Template(
        "customers_country_segment",
        "SELECT name FROM customers WHERE country = '{country}' AND segment = '{segment}'",
        (
            "Which {segment} customers are in {country}?",
            "List the {segment} customers in {country}.",
            "Show all customers in {country} from the {segment} segment.",
            "What are the names of our {segment} customers in {country}?",
            "Name the customers from {country} in the {segment} segment.",
        ),
        ("In {country}, which customers are in the {segment} segment?",),
    ),
    Template(
        "customers_city",
        "SELECT name FROM customers WHERE city = '{city}'",
        (
            "Which customers are in {city}?",
            "List the customers in {city}.",
            "Show all our customers in {city}.",
            "What are the names of the customers in {city}?",
            "Which customers do we have in {city}?",
        ),
        ("Name the customers located in {city}.",),
    ),
    Template(
        "customers_city_since",
        "SELECT name FROM customers WHERE country = '{country}' AND signup_date >= '{signup_month}'",
        (
            "Which customers in {country} signed up since {signup_month}?",
            "List the customers from {country} who signed up since {signup_month}.",
            "Which customers from {country} have signed up since {signup_month}?",
            "Show all customers in {country} with a signup since {signup_month}.",
        ),
        ("Since {signup_month}, which customers in {country} signed up?",),
    ),
    Template(
        "customers_signup_before",
        "SELECT name FROM customers WHERE segment = '{segment}' AND signup_date < '{signup_month}'",
        (
            "Which {segment} customers signed up before {signup_month}?",
            "List the {segment} customers who signed up before {signup_month}.",
            "Show all {segment} customers with a signup before {signup_month}.",
            "What {segment} customers had signed up before {signup_month}?",
        ),
        ("Name the {segment} customers that signed up before {signup_month}.",),
    ),
    Template(
        "customers_signup_count",
        "SELECT COUNT(*) FROM customers WHERE segment = '{segment}' AND strftime('%Y', signup_date) = '{signup_year}'",
        (
            "How many {segment} customers signed up in {signup_year}?",
            "What is the number of {segment} customers who signed up in {signup_year}?",
            "Count the {segment} customers that signed up in {signup_year}.",
            "In {signup_year}, how many {segment} customers signed up?",
        ),
    ),
    Template(
        "customers_not_segment",
        "SELECT name FROM customers WHERE country = '{country}' AND segment != '{segment}'",
        (
            "Which customers in {country} are not in the {segment} segment?",
            "List the customers in {country} who are not {segment} customers.",
            "Show the customers from {country} outside the {segment} segment.",
            "Which customers from {country} do not belong to the {segment} segment?",
        ),
        ("In {country}, which customers are not in the {segment} segment?",),
    ),
    Template(
        "first_customers",
        "SELECT name FROM customers WHERE country = '{country}' ORDER BY signup_date LIMIT {n}",
        (
            "Who were the first {n} customers to sign up in {country}?",
            "List the {n} oldest customers in {country} by signup date.",
            "Show the first {n} customers that signed up in {country}.",
            "Which {n} customers in {country} signed up first?",
            "In {country}, which {n} customers signed up first?",
        ),
        ("Name the first {n} customers that signed up in {country}.",),
    ),
    Template(
        "customers_per_country",
        "SELECT country, COUNT(*) FROM customers WHERE segment = '{segment}' AND signup_date >= '{signup_month}' "
        "GROUP BY country",
        (
            "How many {segment} customers per country have signed up since {signup_month}?",
            "Count the {segment} customers by country who signed up since {signup_month}.",
            "For each country, how many {segment} customers signed up since {signup_month}?",
            "Show the number of {segment} customers per country with a signup since {signup_month}.",
        ),
    ),
    Template(
        "customers_without_orders",
        "SELECT name FROM customers WHERE country = '{country}' AND id NOT IN (SELECT customer_id FROM orders "
        "WHERE strftime('%Y', order_date) = '{year}')",
        (
            "Which customers in {country} placed no orders in {year}?",
            "List the customers in {country} without orders in {year}.",
            "Which customers from {country} did not order anything in {year}?",
            "Show the customers in {country} who did not place an order in {year}.",
            "Who in {country} ordered nothing in {year}?",
            "In {year}, which customers in {country} placed no orders?",
        ),
        ("Name the customers in {country} that placed no orders in {year}.",),
    ),
    Template(
        "customers_with_status",
        f"SELECT DISTINCT customers.name FROM {_ORDERS} WHERE customers.country = '{{country}}' "
        "AND orders.status = '{status}'",
        (
            "Which customers in {country} have {status} orders?",
            "List the customers from {country} with {status} orders.",
            "Show all customers in {country} who have a {status} order.",
            "What customers from {country} have orders that are {status}?",
        ),
        ("Name the customers in {country} that have {status} orders.",),
    ),
    Template(
        "customers_top_spending",
        f"SELECT customers.name FROM {_ORDERS} WHERE customers.country = '{{country}}' "
        "GROUP BY customers.name ORDER BY SUM(orders.total) DESC LIMIT {n}",
        (
            "Which {n} customers in {country} spent the most?",
            "Who are the top {n} customers in {country} by total spending?",
            "List the {n} customers from {country} who spent the most money.",
            "Show the {n} best customers in {country} by order total.",
        ),
        ("In {country}, who are the top {n} customers by spending?",),
    ),
    Template(
        "customers_many_orders",
        f"SELECT customers.name FROM {_ORDERS} WHERE customers.segment = '{{segment}}' "
        "GROUP BY customers.name HAVING COUNT(*) > {few}",
        (
            "Which {segment} customers placed more than {few} orders?",
            "List the {segment} customers with more than {few} orders.",
            "Show every {segment} customer who has more than {few} orders.",
            "What {segment} customers have ordered more than {few} times?",
        ),
        ("Name the {segment} customers that placed more than {few} orders.",),
    ),
)
