"""Questions about employees: one table."""

from __future__ import annotations

from whet.sample.template import Template

TEMPLATES = (
    Template(
        "employee_salary",
        "SELECT salary FROM employees WHERE name = '{employee}'",
        (
            "What is the salary of {employee}?",
            "How much does {employee} earn?",
            "What does {employee} earn?",
            "Show me the salary of {employee}.",
            "{employee}'s salary?",
        ),
        ("How high is {employee}'s salary?", "Tell me how much {employee} earns."),
    ),
    Template(
        "employee_title",
        "SELECT title FROM employees WHERE name = '{employee}'",
        (
            "What is the job title of {employee}?",
            "What is {employee}'s job?",
            "Which job title does {employee} have?",
            "Give me the title of {employee}.",
            "What job does {employee} do?",
            "Tell me the job title of {employee}.",
        ),
        ("What job title does {employee} have?",),
    ),
    Template(
        "employee_city",
        "SELECT city FROM employees WHERE name = '{employee}'",
        (
            "In which city does {employee} work?",
            "Where does {employee} work?",
            "Which city is {employee} based in?",
            "Where is {employee} based?",
            "In what city is the office of {employee}?",
        ),
        ("{employee} works in which city?",),
    ),
    Template(
        "employee_hire_date",
        "SELECT hire_date FROM employees WHERE name = '{employee}'",
        (
            "When was {employee} hired?",
            "What is the hire date of {employee}?",
            "On which date was {employee} hired?",
            "When did {employee} join the company?",
            "Show the hire date of {employee}.",
        ),
        ("On what day did {employee} join the company?", "Tell me when {employee} was hired."),
    ),
    Template(
        "employees_title_office",
        "SELECT name FROM employees WHERE title = '{title}' AND city = '{office}'",
        (
            "Who are the {title}s in {office}?",
            "List the {title}s in {office}.",
            "Which {title}s work in {office}?",
            "Show me every {title} based in {office}.",
            "What are the names of the {title}s in {office}?",
            "Name all {title}s in our {office} office.",
        ),
        ("Which employees in {office} are {title}s?",),
    ),
    Template(
        "employees_salary_above",
        "SELECT name FROM employees WHERE salary > {salary} AND city = '{office}'",
        (
            "Which employees in {office} earn more than {salary}?",
            "Who in {office} earns more than {salary}?",
            "List the employees in {office} with a salary above {salary}.",
            "Show the people in {office} who earn over {salary}.",
            "Who works in {office} and makes more than {salary}?",
        ),
        ("Which people in {office} have a salary over {salary}?",),
    ),
    Template(
        "employees_salary_below",
        "SELECT name FROM employees WHERE salary < {salary}",
        (
            "Which employees earn less than {salary}?",
            "Who earns less than {salary}?",
            "List all employees with a salary below {salary}.",
            "Whose salary is under {salary}?",
            "Show the people who earn under {salary}.",
        ),
        ("Who has a salary lower than {salary}?",),
    ),
    Template(
        "employees_salary_between",
        "SELECT name FROM employees WHERE salary BETWEEN {low_salary} AND {high_salary}",
        (
            "Which employees earn between {low_salary} and {high_salary}?",
            "Who earns between {low_salary} and {high_salary}?",
            "List the employees with a salary between {low_salary} and {high_salary}.",
            "Whose salary is between {low_salary} and {high_salary}?",
            "Show everyone who earns from {low_salary} to {high_salary}.",
        ),
        ("Which employees have a salary from {low_salary} to {high_salary}?",),
    ),
    Template(
        "employees_hired_since",
        "SELECT name FROM employees WHERE hire_date >= '{hire_month}'",
        (
            "Who was hired since {hire_month}?",
            "Which employees were hired since {hire_month}?",
            "List everyone hired since {hire_month}.",
            "Who has joined the company since {hire_month}?",
            "Show all employees who have joined since {hire_month}.",
        ),
        ("Since {hire_month}, who was hired?",),
    ),
    Template(
        "average_salary_title",
        "SELECT AVG(salary) FROM employees WHERE title = '{title}' AND city = '{office}'",
        (
            "What is the average salary of {title}s in {office}?",
            "How much do {title}s in {office} earn on average?",
            "What do {title}s in {office} earn on average?",
            "Show the average salary of the {title}s in {office}.",
            "Average salary for {title}s in {office}?",
        ),
        ("On average, how much do {title}s earn in {office}?",),
    ),
    Template(
        "top_earners_office",
        "SELECT name FROM employees WHERE city = '{office}' ORDER BY salary DESC LIMIT {n}",
        (
            "Who are the {n} best paid employees in {office}?",
            "List the {n} employees in {office} with the highest salary.",
            "Show the top {n} earners in {office}.",
            "Which {n} people in {office} earn the most?",
            "Name the {n} highest paid employees in {office}.",
        ),
        ("Who are the top {n} earners in {office}?",),
    ),
    Template(
        "longest_serving",
        "SELECT name FROM employees WHERE title = '{title}' ORDER BY hire_date LIMIT {n}",
        (
            "Which {n} {title}s were hired first?",
            "Who are the {n} longest serving {title}s?",
            "List the first {n} {title}s we hired.",
            "Show the {n} {title}s with the earliest hire date.",
        ),
        ("Who were the first {n} {title}s to be hired?",),
    ),
    Template(
        "employees_not_office",
        "SELECT name FROM employees WHERE title = '{title}' AND city != '{office}'",
        (
            "Which {title}s do not work in {office}?",
            "List the {title}s who are not in {office}.",
            "Show all {title}s outside {office}.",
            "Which of the {title}s do not work in {office}?",
            "Name the {title}s not based in {office}.",
        ),
        ("Which {title}s are not based in {office}?",),
    ),
    Template(
        "employees_without_orders",
        "SELECT name FROM employees WHERE title = '{title}' AND id NOT IN (SELECT employee_id FROM orders)",
        (
            "Which {title}s have never handled an order?",
            "Which {title}s have no orders?",
            "List the {title}s who never handled an order.",
            "Show all {title}s without any orders.",
            "Which {title}s handled no orders at all?",
        ),
    ),
)
