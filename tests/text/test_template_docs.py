"""docs/templates.md says what the templates are: its tables are the script's."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import pytest
from real_files import real_templates, real_tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_template_docs.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT), run_name="docs")


def test_the_bundled_table_is_up_to_date(script):
    page = script["PATH"].read_text(encoding="utf-8")
    assert script["replaced"](page, "bundled", script["bundled_table"]()) == page, f"run: python {SCRIPT.name}"


def test_the_list_of_real_templates_is_up_to_date(script):
    page = script["PATH"].read_text(encoding="utf-8")
    tables = script["real_tables"](real_templates(), copy.copy(real_tokenizer("llama-2")))
    assert script["replaced"](page, "real", tables) == page, f"run: python {SCRIPT.name}"
