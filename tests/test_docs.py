"""The docs say what the code does: the key table is the code's, links lead somewhere, shipped figures are recorded."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "whet" / "models" / "starter" / "README.md"]


def test_key_table_is_up_to_date() -> None:
    module = runpy.run_path(str(ROOT / "scripts" / "make_config_docs.py"), run_name="docs")
    assert module["text"]() == module["PATH"].read_text(encoding="utf-8"), "run: python scripts/make_config_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_commands_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"^    make (\w+)", text, re.MULTILINE)
    assert named and set(named) <= set(rules)
    from whet.cli.main import VERBS

    verbs = re.findall(r"^    whet (\w+)", text, re.MULTILINE)
    assert verbs and set(verbs) <= set(VERBS)


def test_model_card_figures_are_the_recorded_ones() -> None:
    folder = ROOT / "whet" / "models" / "starter"
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for figure in (
        f"{facts['tokens_seen']:,}",
        f"{facts['parameters']:,}",
        f"{facts['data']['worlds']['train_tokens']:,}",
    ):
        assert figure in card
    for value in facts["perplexity"].values():
        assert f"{value:.3g}" in card
