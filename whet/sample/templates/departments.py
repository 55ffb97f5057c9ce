"""Questions about departments and the people in them."""

from __future__ import annotations

from whet.sample.template import Template

_JOIN = "employees JOIN departments ON employees.department_id = departments.id"

TEMPLATES = (
    Template(
        "department_of_employee",
        f"SELECT departments.name FROM {_JOIN} WHERE employees.name = '{{employee}}'",
        (
            "Which department does {employee} work in?",
            "In which department is {employee}?",
            "What is the department of {employee}?",
            "{employee} is in which department?",
            "Show the department of {employee}.",
        ),
        ("Tell me which department {employee} belongs to.", "What department is {employee} in?"),
    ),
    Template(
        "department_titles",
        f"SELECT employees.name FROM {_JOIN} WHERE departments.name = '{{department}}' "
        "AND employees.title = '{title}'",
        (
            "Who are the {title}s in the {department} department?",
            "List the {title}s in the {department} department.",
            "Which {title}s are in the {department} department?",
            "Show every {title} in the {department} department.",
            "Name the {title}s of the {department} department.",
        ),
        ("Which {title}s work in the {department} department?",),
    ),
    Template(
        "department_office",
        f"SELECT employees.name FROM {_JOIN} WHERE departments.name = '{{department}}' "
        "AND employees.city = '{office}'",
        (
            "Which people of the {department} department work in {office}?",
            "Who in the {department} department works in {office}?",
            "List the {department} department employees in {office}.",
            "Show everyone from the {department} department in {office}.",
            "Name the employees of the {department} department who are in {office}.",
        ),
        ("Who works in {office} for the {department} department?",),
    ),
    Template(
        "department_count_salary",
        f"SELECT COUNT(*) FROM {_JOIN} WHERE departments.name = '{{department}}' AND employees.salary < {{salary}}",
        (
            "How many people in the {department} department earn less than {salary}?",
            "How many {department} department employees have a salary below {salary}?",
            "Count the employees in the {department} department who earn under {salary}.",
            "What is the number of {department} department employees with a salary below {salary}?",
        ),
    ),
    Template(
        "department_top_earners",
        f"SELECT employees.name FROM {_JOIN} WHERE departments.name = '{{department}}' "
        "ORDER BY employees.salary DESC LIMIT {n}",
        (
            "Who are the {n} best paid employees in the {department} department?",
            "List the {n} people in the {department} department with the highest salary.",
            "Show the top {n} earners in the {department} department.",
            "Which {n} people in the {department} department earn the most?",
        ),
        ("Name the {n} highest paid employees of the {department} department.",),
    ),
    Template(
        "average_per_department",
        f"SELECT departments.name, AVG(employees.salary) FROM {_JOIN} "
        "WHERE strftime('%Y', employees.hire_date) = '{hire_year}' GROUP BY departments.name",
        (
            "What is the average salary per department of people hired in {hire_year}?",
            "Show the average salary by department for employees hired in {hire_year}.",
            "For each department, what do people hired in {hire_year} earn on average?",
            "Average salary in each department for people hired in {hire_year}?",
        ),
        ("For people hired in {hire_year}, what is the average salary per department?",),
    ),
    Template(
        "departments_budget_above",
        "SELECT name FROM departments WHERE budget > {budget}",
        (
            "Which departments have a budget above {budget}?",
            "List the departments with a budget of more than {budget}.",
            "What departments have a budget over {budget}?",
            "Show every department whose budget is higher than {budget}.",
        ),
    ),
)
