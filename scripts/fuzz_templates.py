"""Random input for the two small languages: merged prompts and chat template strings.

    python scripts/fuzz_templates.py [--minutes 10] [--seed 1] [--out FILE]

Half of the inputs are random strings of fragments, half are valid ones with random edits. Any exception other than
``DataError`` is a failure, and so is a broken promise (below, each ``check`` says which). The result is written to
benchmarks/results/fuzz_templates.json; the exit code is 1 after a failure.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from whet import runtime
from whet.console import write_json_atomic
from whet.data.merge import merge_columns
from whet.data.merged_prompt import Column, Part, parse_prompt
from whet.errors import DataError
from whet.text.gotemplate import to_go
from whet.text.template_string import FIELDS, parse_template

RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "fuzz_templates.json"
COLUMNS = ["a", "b c", "d.e", "系统", "[x]"]
EOS = "<|eot|>"
SPECIAL = ("<|user|>", "<|start|>", "<|end|>", EOS)
CELLS = [None, float("nan"), "", " ", "x", " y ", "{a}", "[[", 23.0, 7.25, True, "nan word", "\n"]
JINJA = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers sets it

PROMPT_PIECES = [
    "[[",
    "]]",
    "[",
    "]",
    "{",
    "}",
    "{{",
    "}}",
    "\\",
    "\\[[",
    "\\]]",
    " ",
    "\n",
    "word",
    "题",
    '"',
    "{}",
    "{no}",
]
PROMPT_PIECES += ["{no}", *[f"{{{name}}}" for name in COLUMNS] * 2]
PROMPTS = [
    "[[The passenger embarked from {a}.]] [[Their age is {b c}.]] [[Their fare is ${d.e}.]]",
    "{a}[[\nYour input is:\n{b c}]]",
    '{{"city": "{a}", "list": \\[[1, 2\\]]}}[[ and {d.e}[[ or {系统}]]]]',
    "[[{a} [[{b c}]] ]][[ {[x]}]]",
]
TEMPLATE_PIECES = ["{SYSTEM}", *["{INPUT}", "{OUTPUT}"] * 2, "{input}", "{OUTPUTS}", "{x}", "{", "}", "{{", "}}"]
TEMPLATE_PIECES += [*SPECIAL, "\n", "\n\n", " ", "### Input:\n", "USER:", "Below.", "'", '"""', "\\", "{%", "%}", "题"]
TEMPLATES = [
    "Below are tasks.\n\n### Instruction:\n{INPUT}\n\n### Response:\n{OUTPUT}",
    "{SYSTEM}\n\nUSER: {INPUT}\nASSISTANT: {OUTPUT}<|eot|>\nUSER: {INPUT}\nASSISTANT: {OUTPUT}<|eot|>\n",
    "<|start|>system\n{SYSTEM}<|end|>\n<|start|>user\n{INPUT}<|end|>\n<|start|>assistant\n{OUTPUT}<|end|>\n",
    "<|user|>{INPUT}<|end|>{OUTPUT}<|end|><|user|>{INPUT}<|end|>{OUTPUT}<|end|>",
]


class BrokenPromise(Exception):
    """A result that is not what the language says."""


def check(holds: bool, promise: str) -> None:
    if not holds:
        raise BrokenPromise(promise)


def one_of(chance: random.Random, pieces: list[str], valid: list[str]) -> str:
    """Fragments in any order, or a valid input after a few edits."""
    if chance.random() < 0.5:
        return "".join(chance.choices(pieces, k=chance.randint(0, 14)))
    text = chance.choice(valid)
    for _ in range(chance.randint(0, 4)):
        at, end = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        edit = chance.choice(("insert", "delete", "double", "cut"))
        if edit == "insert":
            text = text[:at] + chance.choice(pieces) + text[at:]
        elif edit == "delete":
            text = text[:at] + text[min(at + chance.randint(1, 3), len(text)) :]
        elif edit == "double":
            text = text[:end] + text[at:end] + text[end:]
        else:
            text = text[:at] + text[end:]
    return text


def prompt_case(chance: random.Random, text: str) -> bool:
    """A merged prompt. Returns whether it was accepted."""
    try:
        prompt = parse_prompt(text, COLUMNS)
    except DataError as error:
        check(error.given.rpartition("\n")[2].strip() == "^", "an error ends in a caret")
        return False
    full = {name: f"<{name}>" for name in COLUMNS}
    check(prompt.render(full) == flat(prompt.nodes, full), "with every column there, everything is written as it is")
    rows = [{name: chance.choice(CELLS) for name in COLUMNS} for _ in range(3)]
    for row, merged in zip(rows, merge_columns(rows, text or "{a}").texts, strict=True):
        if not {"nan", "None"} & {word for cell in (text, *row.values()) for word in str(cell).split()}:
            check(not {"nan", "None"} & set(merged.split()), "a missing value is never written")
    check("<" not in prompt.render(dict.fromkeys(COLUMNS)), "with no column there, no value is written")
    return True


def flat(nodes: tuple[str | Column | Part, ...], values: dict[str, str]) -> str:
    """The prompt with all its parts."""
    kinds: Callable[[Any], str] = lambda node: (  # noqa: E731
        node if isinstance(node, str) else values[node.name] if isinstance(node, Column) else flat(node.nodes, values)
    )
    return "".join(map(kinds, nodes))


def template_case(chance: random.Random, text: str) -> bool:
    """A template string. Returns whether it was accepted."""
    default = chance.choice((None, "", "Be kind."))
    bos = chance.choice(("", "<s>"))
    try:
        template = parse_template(text, eos=EOS, special=SPECIAL, default_system=default, bos=bos)
    except DataError as error:
        check("\n    " in error.given and error.given.rpartition("\n")[2].strip() == "^", "an error ends in a caret")
        return False
    check(any(token in template.assistant.after for token in SPECIAL), "an answer has a terminator")
    fixed = [template.prefix, *(text for turn in turns_of(template) for text in (turn.before, turn.after))]
    check(not any(field in text for field in FIELDS for text in fixed), "no field is baked into the text")
    contents = ["".join(chance.choices(["q", " ", "\n", "'", "{", "题", "<|"], k=3)) for _ in range(4)]
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    if template.system is not None and chance.random() < 0.5:
        messages.insert(0, {"role": "system", "content": "S"})
    jinja = JINJA.from_string(template.jinja())
    for chat in (messages, messages[:-1], messages[:-2]):
        for ask in (False, True):
            written = template.render(chat, ask)
            check(jinja.render(messages=chat, add_generation_prompt=ask) == written, "the Jinja writes the same")
    check(template.render(messages).startswith(template.render(messages[:-1], True)), "a prompt begins the whole text")
    again = parse_template(text, eos=EOS, special=SPECIAL, default_system=default, bos=bos)
    check(again == template and to_go(again) == to_go(template), "the same text gives the same template")
    return True


def turns_of(template: Any) -> list[Any]:
    return [turn for turn in (template.system, template.user, template.assistant) if turn is not None]


CASES = {
    "merged prompt": (prompt_case, PROMPT_PIECES, PROMPTS),
    "template string": (template_case, TEMPLATE_PIECES, TEMPLATES),
}


def run(minutes: float, seed: int) -> dict[str, Any]:
    """Cases until the time is over; stops at the tenth failure."""
    chance = random.Random(seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in CASES}
    failures: list[dict[str, str]] = []
    begun = time.monotonic()
    while time.monotonic() - begun < minutes * 60 and len(failures) < 10:
        name = chance.choice(sorted(CASES))
        case, pieces, valid = CASES[name]
        text = one_of(chance, pieces, valid)
        try:
            counts[name]["accepted" if case(chance, text) else "refused"] += 1
        except Exception as error:
            failures.append({"language": name, "input": text, "error": repr(error), "trace": traceback.format_exc()})
            print(f"{name}: {text!r}: {error!r}", file=sys.stderr)
    return {
        "seed": seed, "minutes": round((time.monotonic() - begun) / 60, 2),
        "cases": sum(sum(counter.values()) for counter in counts.values()),
        "by_language": {name: dict(counter) for name, counter in counts.items()}, "failures": failures,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    found = run(given.minutes, given.seed)
    write_json_atomic(given.out, {"versions": runtime.versions(), **found})
    print(f"{found['cases']:,} cases in {found['minutes']} minutes, {len(found['failures'])} failures; {given.out}")
    for name, counter in found["by_language"].items():
        print(f"  {name}: {counter}")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
