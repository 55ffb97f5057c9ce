"""Make the picture of docs/serve.md: the chat page of `whet serve starter`, two questions asked.

    python scripts/make_serve_picture.py

Chromium draws it; Pillow makes it small.
"""

from __future__ import annotations

from pathlib import Path

from browser import Browser
from check_openai import serving
from PIL import Image

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "serve_page.png"
QUESTIONS = ("How many singers are there?", "List the names of all cities in France.")
COLOURS = 48


def main() -> None:
    """Ask, then draw."""
    with serving("starter") as server, Browser((820, 700)) as page:
        page.open(server.address + "/")
        page.wait("document.getElementById('model').textContent === 'starter'")
        page.value("document.getElementById('temperature').value = '0'")
        for count, question in enumerate(QUESTIONS, 1):
            page.click("#text")
            page.type(question)
            page.press("Enter")
            page.wait(f"document.querySelectorAll('.facts').length === {count}")
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        page.picture(TARGET)
    with Image.open(TARGET) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
