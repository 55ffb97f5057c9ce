"""Write docs/config.md, the table of all config keys, from the one place that defines them."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from whet.config.dataset_keys import DatasetConfig, DatasetType
from whet.config.keys import RunConfig

PATH = Path(__file__).resolve().parents[1] / "docs" / "config.md"
HEAD = """# Config keys

Written by `scripts/make_config_docs.py` from `whet/config`; do not edit. Names and meanings are those of Axolotl.
null means unset.
"""


def rows(model: type[BaseModel]) -> list[str]:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else "unset" if field.default is None else ""
        default = default or f"`{json.dumps(field.default)}`".replace("|", "\\|")
        lines.append(f"| `{name}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return lines


def text() -> str:
    parts = [
        HEAD,
        "## A run\n",
        *rows(RunConfig),
        "\n## An entry of `datasets`\n",
        *rows(DatasetConfig),
        "\n## A `type` of your own\n",
        *rows(DatasetType),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
