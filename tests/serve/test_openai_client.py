"""The checks of scripts/check_openai.py: `whet serve` as the official client sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whet.llamacpp import available

pytest.importorskip("openai")
pytestmark = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_openai.py"
NAMES = re.findall(r"^        (\w+),$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def servers(check_openai: Any, starter_gguf: Path) -> Iterator[Any]:
    with check_openai.both(str(starter_gguf)) as found:
        yield found


def test_no_check_is_left_out(check_openai: Any) -> None:
    assert list(check_openai.CHECKS) == NAMES and len(NAMES) >= 25


@pytest.mark.parametrize("name", NAMES)
def test_with_the_official_client(name: str, check_openai: Any, servers: Any) -> None:
    check_openai.CHECKS[name](*servers)
