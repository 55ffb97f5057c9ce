"""Write docs/config.md, the table of all config keys and their states, from the one place that defines them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from whet.config.check import check_files, summary
from whet.config.dataset_keys import DatasetConfig, DatasetType
from whet.config.foreign import DATASET, RUN, TOKENS, TYPE, Level
from whet.config.keys import RunConfig, SpecialTokens
from whet.config.schema import config_schema
from whet.config.states import explain_key, state_of

PATH = Path(__file__).resolve().parents[1] / "docs" / "config.md"
HEAD = """# Config keys

Written by `scripts/make_config_docs.py` from `whet/config`; do not edit. Names and meanings are those of Axolotl.
null means unset. Every key of Axolotl's has one of four states, and none is ignored in silence:

| state | what happens |
|---|---|
| works | it is obeyed |
| mapped | it is read as another key, with one notice |
| no effect | what it asks for happens anyway, or cannot change the result; one notice says so |
| refused | an error with the line, the reason and what to do; null, false and empty are fine |

A key that is none of these is a mistake: an error with its line and the nearest key.
"""
SAMPLE = """base_model: org/model
datasets:
  - path: org/rows
    tpye: alpaca
adapter: lora
learning_rate: 0.05
flash_attention: true
deepspeed: zero2.json
"""
CHECK = """## Check a file

`whet config check FILE...` reads every file, loads no model, and names every problem with line and column; warnings are
for values that work and are probably not meant. Exit code 2 when a file has an error, else 0.

```yaml
{sample}```

```
$ whet config check run.yml
{output}
```
"""
EXPLAIN = """## Ask about a key

```
$ whet config explain sequence_len
{first}

$ whet config explain datasets.0.message_property_mappings
{second}

$ whet config explain resume_from_checkpoint
{third}
```
"""
SCHEMA = """## Completion in an editor

`whet config schema` prints JSON Schema (draft 2020-12). Editors with the YAML language server (VS Code with the YAML
extension, Neovim, Helix, ...) complete keys, show their meaning and mark mistakes once a file names it. Nothing is
fetched: the schema is a file beside yours.

    whet config schema > whet.schema.json

```yaml
# yaml-language-server: $schema=whet.schema.json
base_model: starter
```

Or for all files of a folder, in `.vscode/settings.json`: `{{"yaml.schemas": {{"whet.schema.json": "configs/*.yml"}}}}`.
The part about one key, `lora_r`:

```json
{part}
```
"""


def rows(model: type[BaseModel]) -> list[str]:
    lines = ["| key | state | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else "unset" if field.default is None else ""
        default = default or f"`{json.dumps(field.default)}`"
        lines.append(f"| `{name}` | works | {cell(default)} | {cell(field.description or '')} |")
    return lines


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def foreign(level: Level) -> Iterator[str]:
    """The keys of one depth that whet has no field for, in the order of their names."""
    yield from ("| key | state | why, and what to do |", "|---|---|---|")
    keys = {*level.mapped, *level.no_effect, *level.refused, *(["plugins"] if level is RUN else [])}
    for key in sorted(keys - level.model.model_fields.keys()):
        found = state_of(key, level)
        if found is not None:
            text = f"{found.text}; {found.fix}" if found.fix else found.text
            yield f"| `{key}` | {found.state} | {cell(text)} |"


def checked() -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yml"
        file.write_text(SAMPLE, encoding="utf-8")
        results = check_files([file])
        lines = [line.replace(f"{folder}/", "") for line in results[0].lines()]
    return "\n".join([*lines, summary(results)])


def text() -> str:
    asked = ("sequence_len", "datasets.0.message_property_mappings", "resume_from_checkpoint")
    first, second, third = (explain_key(key) for key in asked)
    part = json.dumps({"lora_r": config_schema()["properties"]["lora_r"]}, indent=2)
    parts = [
        HEAD,
        CHECK.format(sample=SAMPLE, output=checked()),
        EXPLAIN.format(first=first, second=second, third=third),
        SCHEMA.format(part=part),
        "## A run\n",
        *rows(RunConfig),
        "\n## An entry of `datasets`\n",
        *rows(DatasetConfig),
        "\n## A `type` of your own\n",
        *rows(DatasetType),
        "\n## `special_tokens`\n",
        *rows(SpecialTokens),
        "\n## Axolotl's other keys\n\nA `*` stands for any ending.\n",
        *foreign(RUN),
        "\n### In `datasets`\n",
        *foreign(DATASET),
        "\n### In a `type` of your own\n",
        *foreign(TYPE),
        "\n### In `special_tokens`\n",
        *foreign(TOKENS),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
