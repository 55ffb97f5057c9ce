"""Make the pictures of docs/preview.md: `whet preview` on the data of the four tutorials.

    python scripts/make_preview_pictures.py SHARED_DATA [NAME ...]

SHARED_DATA is the folder with sentiment/, wikisql/, alpaca/ and dpo/. Chromium draws the pictures; a font with Chinese
characters should be installed, and Pillow. The text of the terminal is printed too, for the page.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from PIL import Image, ImageChops
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from whet import api
from whet.data.preview.terminal import print_report

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
COLUMNS = 100  # of the terminal
PAGE = "1000,6000"  # pixels of the window for the page; what is empty below it is cut off
MARGIN = 24  # pixels below the last line
COLOURS = (128, 48, 24)  # of a picture: the first number that makes it small enough
LARGEST = 150_000  # bytes of a picture
WIDTH, LINE = 860, 19  # pixels of the terminal's picture, and of one line
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: {background}; color: {foreground}; }}
pre {{ margin: 0; padding: 18px 20px; font: 13px/19px Menlo, Consolas, "DejaVu Sans Mono", "WenQuanYi Micro Hei Mono",
  "Noto Sans Mono CJK SC", monospace; }}
</style><pre>{code}</pre>
"""

SQL_FORMAT = "Tables: {input}\nQuestion: {instruction}\nSQL:\n"
CHATBOT_TEMPLATE = """Below are some instructions that describe some tasks. Write responses that appropriately complete each request.

### Instruction:
{INPUT}

### Response:
{OUTPUT}"""  # noqa: E501

Config = dict[str, object]


def sentiment() -> Config:
    """Tutorial B: ten rows, three classes."""
    return {"datasets": [{"path": "data/sentiment/dataset.json", "type": "alpaca"}], "sequence_len": 512}


def sql() -> Config:
    """Tutorial A: questions to SQL, some of them held out."""
    columns = {"field_instruction": "question", "field_input": "context", "field_output": "answer"}
    source = {
        "path": "data/wikisql/train.jsonl",
        "split": "train[:5000]",
        "type": {**columns, "format": SQL_FORMAT},
    }
    return {"datasets": [source], "val_set_size": 0.05, "sequence_len": 1024}


def dpo() -> Config:
    """Tutorial C: preference pairs, as the article has them."""
    source = {
        "path": "data/dpo/article_dpo.jsonl",
        "type": "chat_template.default",
        "field_messages": "conversation",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
    }
    return {"chat_template": "qwen_25", "datasets": [source], "sequence_len": 8192, "sample_packing": False}


def chatbot() -> Config:
    """Tutorial D: Alpaca columns merged to conversations of three turns, in the user's own template."""
    from datasets import load_dataset

    from whet import standardize_sharegpt, to_sharegpt
    from whet.models.load import tokenizer_of
    from whet.text.template_string import parse_template

    rows = load_dataset("json", data_files="data/alpaca/alpaca_en_demo.json", split="train")
    merged = to_sharegpt(
        rows,
        merged_prompt="{instruction}[[\nYour input is:\n{input}]]",
        output_column_name="output",
        conversation_extension=3,
    )
    standardize_sharegpt(merged).to_json("chatbot.jsonl", force_ascii=False)
    template = parse_template(CHATBOT_TEMPLATE, eos=tokenizer_of("starter").eos_token)
    Path("chatbot.jinja").write_text(template.jinja(), encoding="utf-8")
    return {
        "chat_template": "jinja",
        "chat_template_jinja": "chatbot.jinja",
        "datasets": [{"path": "chatbot.jsonl"}],
        "sequence_len": 2048,
    }


SETS: dict[str, tuple[Callable[[], Config], int]] = {  # with the rows to show
    "sql": (sql, 2),
    "sentiment": (sentiment, 2),
    "dpo": (dpo, 1),
    "chatbot": (chatbot, 1),
}


def draw(name: str) -> None:
    """Both pictures of one data set."""
    make, rows = SETS[name]
    path = Path(f"{name}.yml")
    path.write_text(yaml.safe_dump({"base_model": "starter", **make()}, sort_keys=False, allow_unicode=True))
    report = api.preview(path, rows=rows, html=f"{name}.html")
    print(f"$ whet preview {path} --rows {rows}\n")
    report.print()
    console = Console(
        record=True, force_terminal=True, color_system="truecolor", width=COLUMNS, file=io.StringIO(), highlight=False
    )
    print_report(report, console)
    shown = console.export_html(theme=DIMMED_MONOKAI, inline_styles=True, code_format=TERMINAL)
    Path(f"{name}_terminal.html").write_text(shown, encoding="utf-8")
    height = LINE * (shown.count("\n") - TERMINAL.count("\n")) + 56
    screenshot(f"{name}_terminal.html", IMAGES / f"preview_{name}_terminal.png", f"{WIDTH},{height}")
    screenshot(f"{name}.html", IMAGES / f"preview_{name}_page.png", PAGE)


def screenshot(page: str, target: Path, size: str) -> None:
    """Draw a page with Chromium, in few colours, without what is empty below it; too large a file is an error."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
    address = Path(page).absolute().as_uri()
    subprocess.run([browser, *options, f"--screenshot={target}", address], check=True, capture_output=True)
    with Image.open(target) as picture:
        whole = picture.convert("RGB")
    empty = Image.new("RGB", whole.size, whole.getpixel((0, whole.height - 1)))
    box = ImageChops.difference(whole, empty).getbbox() or (0, 0, whole.width, whole.height)
    shown = whole.crop((0, 0, whole.width, min(box[3] + MARGIN, whole.height)))
    for colours in COLOURS:
        shown.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size <= LARGEST:
            return
    raise ValueError(f"{target} has {target.stat().st_size:,} bytes, more than {LARGEST:,}")


def main() -> None:
    """Draw all sets, or those that are named."""
    data, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(SETS)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("data").symlink_to(data)
        for name in names:
            draw(name)


if __name__ == "__main__":
    main()
