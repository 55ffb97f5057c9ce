"""Write the tables of docs/templates.md: the bundled templates, and the real ones out of the sources of xllamacpp.

The second table needs those sources (fetched into the user's cache by the tests); without them it is left as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from whet.config.chat_templates import CHAT_TEMPLATES
from whet.text.chat import ChatTemplate, bundled_chat_template, chat_template_of

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "templates.md"
MARK = "<!-- {}: written by scripts/make_template_docs.py -->"
PLACES = {
    "turn": "a turn of its own",
    "start": "at the start only",
    "first_user": "in the first question",
    "each_turn": "in every question",
}


def bundled_table() -> str:
    lines = [
        "| name | other names | system message | without one | stop | Ollama TEMPLATE |",
        "|---|---|---|---|---|---|",
    ]
    for name, others in CHAT_TEMPLATES.items():
        template = bundled_chat_template(name)
        stops = ", ".join(f"`{_cell(stop)}`" for stop in template.stops)
        go = "yes" if template.go else f"no: {template.no_go}"
        spellings = ", ".join(f"`{other}`" for other in others)
        lines.append(f"| `{name}` | {spellings} | {_place(template)} | {_default(template)} | {stops} | {go} |")
    return "\n".join(lines) + "\n"


def real_tables(templates: dict[str, str], tokenizer: PreTrainedTokenizerFast) -> str:
    """The real templates with a Go form in one line, the others with their reasons."""
    written, omitted = [], ["| template | pieces | why there is no TEMPLATE |", "|---|---|---|"]
    for name, jinja in templates.items():
        tokenizer.chat_template = jinja
        template = chat_template_of(tokenizer)
        assert template is not None
        if template.go:
            written.append(name)
        else:
            omitted.append(f"| {name} | {'yes' if template.pieces else 'no'} | {_cell(template.no_go)} |")
    yes = f"Of {len(templates)} real templates, {len(written)} have a Go form: {', '.join(written)}.\n"
    return yes + "\nThe others:\n\n" + "\n".join(omitted) + "\n"


def replaced(text: str, part: str, table: str) -> str:
    """The page with one of its tables written anew."""
    start, end = MARK.format(part), MARK.format(f"end of {part}")
    head, _, rest = text.partition(start + "\n")
    _, found, tail = rest.partition(end)
    assert found, f"docs/templates.md has lost the marks of its table {part!r}"
    return f"{head}{start}\n\n{table}\n{end}{tail}"


def _place(template: ChatTemplate) -> str:
    pieces = template.pieces
    if pieces is None:
        return PLACES["turn"]
    return PLACES[pieces.system_place] if pieces.system else "refused"


def _default(template: ChatTemplate) -> str:
    default = template.pieces.default_system if template.pieces else None
    if default is None:
        return "nothing"
    return f'"{_cell(default)}"' if default else "its place stays empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    page = replaced(PATH.read_text(encoding="utf-8"), "bundled", bundled_table())
    sys.path.insert(0, str(ROOT / "tests" / "text"))
    from real_files import CACHE, real_templates, real_tokenizer

    if CACHE.is_dir():
        page = replaced(page, "real", real_tables(real_templates(), real_tokenizer("llama-2")))
    PATH.write_text(page, encoding="utf-8")
