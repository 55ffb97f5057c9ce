"""Jinja that reads messages under other names, as rows of other tools have them."""

from __future__ import annotations

from collections.abc import Mapping

from whet.errors import DataError

KEYS = ("role", "content")
ROLES = ("user", "assistant", "system")


def accept_mapped(jinja: str, mapping: Mapping[str, str]) -> str:
    """The template with a beginning that renames messages; messages under the usual names are read as before.

    Args:
        mapping: usual name -> name in the rows, of the keys role and content and of the roles user, assistant, system.

    Raises:
        DataError: a name that is none of these.
    """
    for name in mapping:
        if name not in KEYS + ROLES:
            raise DataError(f"mapping holds {name!r}", "names from " + ", ".join(KEYS + ROLES))
    role, content = (mapping.get(key, key) for key in KEYS)
    renamed = {mapping[name]: name for name in ROLES if mapping.get(name, name) != name}
    if (role, content) == KEYS and not renamed:
        return jinja
    names = ", ".join(f"{_quote(other)}: {_quote(name)}" for other, name in renamed.items())
    read = f"m[{_quote(role)}]"
    message = f"{{'role': {{{names}}}.get({read}, {read}), 'content': m[{_quote(content)}]}}"
    if role != "role":
        message = f"m if 'role' in m else {message}"
    return (
        "{% set mapped = namespace(found=[]) %}{% for m in messages %}"
        f"{{% set mapped.found = mapped.found + [{message}] %}}"
        "{% endfor %}{% set messages = mapped.found %}" + jinja
    )


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
