"""The chat page in a headless Chromium, typed into and clicked on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whet.llamacpp import available

pytest.importorskip("openai")
pytestmark = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")

KEY = "the-key"
DONE = "document.querySelectorAll('.facts').length === {count}"
LAST = "[...document.querySelectorAll('.turn.assistant pre')].at(-1).textContent"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"> & <script>1</script>\n  two  spaces"


@pytest.fixture(scope="module")
def server(check_openai: Any, starter_gguf: Path) -> Iterator[Any]:
    with check_openai.serving(str(starter_gguf), "--parallel", "1", "--api-key", KEY, key=KEY) as found:
        yield found


@pytest.fixture
def page(browser_module: Any, server: Any) -> Iterator[Any]:
    """The page, opened with the key."""
    with browser_module.Browser() as browser:
        browser.open(server.address + "/")
        browser.wait("document.getElementById('locked').open")
        browser.click("#key")
        browser.type(KEY)
        browser.press("Enter")
        browser.wait(f"document.getElementById('model').textContent === '{server.model}'")
        browser.value("document.getElementById('temperature').value = '0'")
        browser.value("document.getElementById('max_tokens').value = '40'")
        browser.complaints.clear()  # the 401 that asked for the key
        yield browser


def _ask(page: Any, text: str) -> None:
    page.click("#text")
    page.type(text)
    page.press("Enter")


def test_a_conversation(page: Any, server: Any) -> None:
    """What the page shows is what the API says, history and system message included; the speed is shown."""
    page.value("document.getElementById('settings').open = true")
    page.click("#system")
    page.type("You write SQL.")
    turns: Any = [{"role": "system", "content": "You write SQL."}]
    for count, question in enumerate(("How many singers are there?", "And in France?"), 1):
        _ask(page, question)
        page.wait(DONE.format(count=count))
        turns.append({"role": "user", "content": question})
        answer = server.chat(messages=turns, max_tokens=40, top_p=0.95)
        assert page.value(LAST) == answer.choices[0].message.content
        turns.append({"role": "assistant", "content": page.value(LAST)})
        facts = page.value("[...document.querySelectorAll('.facts')].at(-1).textContent")
        assert facts.startswith(f"{answer.usage.completion_tokens} tokens, ") and "tokens/s" in facts
    page.click("#new")
    assert page.value("document.querySelectorAll('.turn').length") == 0
    _ask(page, "How many singers are there?")
    page.wait(DONE.format(count=1))
    assert page.value(LAST) == server.chat(messages=turns[:2], max_tokens=40).choices[0].message.content
    assert page.complaints == []


def test_text_is_text(page: Any) -> None:
    _ask(page, HOSTILE)
    page.wait(DONE.format(count=1))
    assert page.value("document.querySelector('.turn.user pre').textContent") == HOSTILE
    assert page.value("document.querySelectorAll('main img, main script').length") == 0
    assert page.value("document.title").endswith("- whet") and page.complaints == []


def test_stop_ends_an_answer_that_waits(page: Any, check_openai: Any, server: Any) -> None:
    """The only slot works for another client: the question comes back to be asked again."""
    stream = check_openai.endless(server)
    next(iter(stream))
    _ask(page, "Tell me a story.")
    page.wait("!document.getElementById('stop').hidden")
    page.click("#stop")
    page.wait("document.getElementById('stop').hidden && !document.getElementById('send').hidden")
    assert page.value("document.getElementById('text').value") == "Tell me a story."
    assert page.value("document.querySelectorAll('.turn').length") == 0
    stream.close()
    check_openai.until_idle(server, 15)
    page.click("#send")
    page.wait(DONE.format(count=1))
    assert page.complaints == []


def test_an_error_is_shown_and_nothing_is_lost(page: Any) -> None:
    page.value("document.getElementById('max_tokens').value = '999999'")
    _ask(page, "Hello")
    page.wait("document.getElementById('note').textContent !== ''")
    assert "999,999 is more than this server" in page.value("document.getElementById('note').textContent")
    assert page.value("document.getElementById('text').value") == "Hello"
    assert page.value("document.querySelectorAll('.turn').length") == 0
