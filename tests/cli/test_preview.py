"""``whet preview`` on real data: what is shown, what is counted, what is refused, and the page in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from whet import api
from whet.cli import main
from whet.config import load_config
from whet.console import forget_notices

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
END = "<|im_end|>"

SQL = {
    "field_instruction": "question",
    "field_input": "context",
    "field_output": "answer",
    "format": "Tables: {input}\nQuestion: {instruction}\nSQL:\n",
}
TITANIC = {
    "field_instruction": "name",
    "field_input": "age",
    "field_output": "survived",
    "format": "Did {instruction} survive, aged {input}?\n",
    "no_input_format": "Did {instruction} survive?\n",
}
GSM8K = {"field_instruction": "question", "field_output": "answer", "format": "{instruction}\n"}


@pytest.fixture(autouse=True)
def _notices_are_said_again() -> None:
    forget_notices()


def config(folder: Path, path: Path | str, dataset: dict[str, Any] | None = None, **keys: Any) -> Path:
    entry = {"path": str(path), **(dataset or {})}
    target = folder / "c.yml"
    target.write_text(yaml.safe_dump({"base_model": "starter", "datasets": [entry], "sequence_len": 1024, **keys}))
    return target


def lines(folder: Path, *rows: dict[str, Any]) -> Path:
    target = folder / "rows.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return target


def shown(arguments: Sequence[str | Path], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    result = main.run(["preview", *map(str, arguments)])
    captured = capsys.readouterr()
    assert result == code, captured.err
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def test_sentiment(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, shared / "data" / "sentiment" / "dataset.json", {"type": "alpaca"})
    out, err = shown([path], capsys)
    assert f"### Response:↵\n[[积极{END}]]" in out
    assert out.count("[[积极") + out.count("[[中性") + out.count("[[消极") == 3
    assert "rows read" in out and '"积极" 40%, "中性" 30%, "消极" 30%' in out and "accuracy to beat: 40.0%" in out
    assert err.startswith("note: ")


def test_alpaca(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, shared / "data" / "alpaca" / "alpaca_en_demo.json", sequence_len=256)
    out, _ = shown([path, "--rows", "1"], capsys)
    assert "== row 1: the first row" in out and "== row 2" not in out
    assert "longer than 256 tokens" in out and "left out" in out


def test_wikisql(shared: Path, tmp_path: Path) -> None:
    source = {"split": "train[:800]", "type": SQL}
    path = config(tmp_path, shared / "data" / "wikisql" / "train.jsonl", source, val_set_size=0.1)
    report = api.preview(path, rows=5)
    assert report.valid is not None and (report.train.rows, report.valid.rows) == (720, 80)
    assert [row.why for row in report.shown] == ["first", "longest", "shortest", "random", "random"]
    for row in report.shown:
        (part,) = row.parts
        trained = "".join(piece.text for piece in part.pieces if piece.trained)
        assert trained.startswith("SELECT ") and trained.endswith(END)
        assert "".join(piece.text for piece in part.pieces).startswith("Tables: CREATE TABLE")
    assert report.train.fill is not None and report.train.fill > 0.9
    report.check()


def test_figures_are_those_of_the_run(shared: Path, tmp_path: Path) -> None:
    """The same rows are held out, and the same tokens are counted, as when training prepares the data."""
    from whet.data.run_rows import prepare_rows
    from whet.train.base import longest_row, tokenizer_for

    source = {"split": "train[:400]", "type": SQL}
    keys = {"val_set_size": 0.1, "sequence_len": 80, "excess_length_strategy": "truncate"}
    path = config(tmp_path, shared / "data" / "wikisql" / "train.jsonl", source, **keys)
    report = api.preview(path, rows=0)
    settings = load_config(path)
    rows = prepare_rows(settings, tokenizer_for(settings), longest_row(settings))
    assert rows.valid is not None and report.valid is not None
    assert report.train.longer > 20
    assert (report.train.kept, report.valid.kept) == (len(rows.train), len(rows.valid))
    assert (report.train.tokens, report.train.trained_tokens) == (
        rows.train.stats.tokens,
        rows.train.stats.trained_tokens,
    )
    assert (report.valid.tokens, report.valid.trained_tokens) == (
        rows.valid.stats.tokens,
        rows.valid.stats.trained_tokens,
    )


def test_gsm8k(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"split": "train[:300]", "type": GSM8K}
    path = config(tmp_path, shared / "data" / "gsm8k" / "train.jsonl", source)
    out, _ = shown([path], capsys)
    assert "[[Natalia sold 48/2" in out and "classes" not in out


def test_titanic(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, shared / "data" / "titanic" / "titanic.csv", {"type": TITANIC})
    out, _ = shown([path, "--rows", "8"], capsys)
    assert f"Did Braund, Mr. Owen Harris survive, aged 22?↵\n[[0{END}]]" in out
    assert "nan" not in out.lower().replace("financ", "") and "22.0" not in out
    assert '2 classes: "0" 62%, "1" 38%' in out and "accuracy to beat: 61.6%" in out


def test_preference_pairs(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {
        "split": "train[:40]",
        "type": "chat_template.default",
        "field_messages": "conversation",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
    }
    path = config(tmp_path, shared / "data" / "dpo" / "article_dpo.jsonl", source, chat_template="chatml")
    out, _ = shown([path, "--rows", "1"], capsys)
    assert "prompt:\n<|im_start|>user↵" in out
    assert "chosen:\n[[That sounds like a fun" in out and "rejected:\n[[Hello! I'd be happy" in out


def test_a_pipe_gets_whole_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = " ".join(f"word{i}" for i in range(100))
    path = config(tmp_path, lines(tmp_path, {"prompt": f"{long[:300]}\n", "completion": f"yes {long} \t no"}))
    out, _ = shown([path, "--set", "datasets.0.type=prompt_completion"], capsys)
    rows = out.split("\n")
    assert f"{long[:300]}↵" in rows
    assert any("·→ " in row and row.endswith(f"·no{END}]]") and " more tokens ... " in row for row in rows)
    assert not any(row != row.rstrip() for row in rows)


def test_damaged_lines_and_rows_without_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(tmp_path, *({"prompt": f"p {i} ", "completion": f"answer {i}"} for i in range(5)))
    rows.write_text(rows.read_text() + '{"prompt": \n{"prompt": "p", "completion": " "}\n')
    out, _ = shown([config(tmp_path, rows, {"damaged": "skip"})], capsys)
    assert "1 damaged lines of training skipped" in out and "left out: no answer" in out
    _, err = shown([config(tmp_path, rows)], capsys, code=2)
    assert "rows.jsonl:6" in err


class TestRefused:
    """One message, exit code 2; the weights are never read."""

    def test_no_row_fits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = lines(tmp_path, *({"prompt": "many words " * 9, "completion": str(i)} for i in range(3)))
        page = tmp_path / "p.html"
        out, err = shown([config(tmp_path, rows, sequence_len=16), "--html", page], capsys, code=2)
        assert "error: none of the 3 rows can be trained on: 3 longer than sequence_len" in err
        assert "1 error" in out and "None of the 3 rows" in page.read_text(encoding="utf-8")

    def test_nothing_is_marked_as_trained(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = {"role": "user", "content": "hello"}
        answer = {"role": "assistant", "content": "hi", "train": False}
        path = config(tmp_path, lines(tmp_path, *({"messages": [message, answer]} for _ in range(3))))
        _, err = shown([path], capsys, code=2)
        assert "error:" in err and "of 3" in err

    def test_a_template_that_ends_no_answer(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        jinja = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        jinja += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        pair = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
        rows = lines(tmp_path, *({"messages": pair} for _ in range(3)))
        path = config(tmp_path, rows, chat_template="jinja", chat_template_jinja=jinja)
        _, err = shown([path], capsys, code=2)
        assert "error: no answer ends in a terminator" in err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["c.yml"], "c.yml"),
            ([], "CONFIG.yml"),
            (["c.yml", "--rows", "-1"], "--rows"),
        ],
    )
    def test_the_command_line(
        self,
        arguments: list[str],
        words: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        out, err = shown(arguments, capsys, code=2)
        assert words in err and err.count("error:") == 1 and out == ""

    def test_a_bad_key_through_set(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = config(tmp_path, "rows.jsonl")
        _, err = shown([path, "--set", "sequence_lem=3"], capsys, code=2)
        assert 'did you mean "sequence_len"' in err

    def test_no_such_rows_and_no_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        page = tmp_path / "p.html"
        _, err = shown([config(tmp_path, tmp_path / "none.jsonl"), "--html", page], capsys, code=2)
        assert "none.jsonl: no such file" in err and not page.exists()

    def test_a_page_that_cannot_be_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        path = config(tmp_path, lines(tmp_path, {"text": "some text"}))
        _, err = shown([path, "--html", tmp_path / "file" / "p.html"], capsys, code=2)
        assert "cannot write" in err


def test_no_weights_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose weights are damaged can be previewed: only its tokenizer and config are loaded."""
    from whet.models.names import starter_folder

    model = tmp_path / "model"
    shutil.copytree(starter_folder(), model)
    for file in model.glob("*.safetensors"):
        file.write_bytes(b"no weights")
    path = config(tmp_path, lines(tmp_path, {"prompt": "a\n", "completion": "b"}), base_model=str(model))
    out, _ = shown([path], capsys)
    assert f"[[b{END}]]" in out


@dataclass
class Element:
    name: str
    kind: str
    text: str = ""


class Page(HTMLParser):
    """The elements of tokens in each shown text, and what the page names."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[list[Element]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.names: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        self.names.append(tag)
        kind = dict(attrs).get("class") or ""
        if tag == "div" and kind == "text":
            self.texts.append([])
            self._inside = ["div"]
        elif self._inside:
            self._inside.append(tag)
            if tag in ("b", "i", "u"):
                self.texts[-1].append(Element(tag, kind))

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside and self.texts[-1]:
            self.texts[-1][-1].text += data

    def trained(self, text: int) -> str:
        return "".join(element.text for element in self.texts[text] if element.name == "b")


HOSTILE = "</div><script>document.title='forged'</script><|im_end|>\n\t &amp; <b>x</b>  🙂"


@pytest.fixture
def hostile_page(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{HOSTILE} {i}\n", "completion": f"{HOSTILE}: 积极 {i}"} for i in range(3)]
    mapping = {"field_instruction": "prompt", "field_output": "completion", "format": "{instruction}"}
    path = config(tmp_path, lines(tmp_path, *rows), {"type": mapping})
    page = tmp_path / "pages" / "p.html"
    api.preview(path, rows=2, html=page)
    assert [item.name for item in page.parent.iterdir()] == ["p.html"]
    return page


def check_hostile(page: Page) -> None:
    assert page.trained(0) == f"{HOSTILE}: 积极 0{END}"
    assert "".join(element.text for element in page.texts[0]).startswith(HOSTILE)
    special = [element.text for element in page.texts[0] if element.kind == "s" or element.name == "i"]
    assert special == [END]
    assert "script" not in page.names
    assert len(page.texts) == 2


def test_the_page_holds_the_tokens(hostile_page: Path) -> None:
    page = Page(hostile_page.read_text(encoding="utf-8"))
    check_hostile(page)
    assert ("lang", "en") in page.attributes and "title" in page.names
    addresses = [value for name, value in page.attributes if name in ("href", "src") and value]
    assert addresses and all(value.startswith("#") for value in addresses)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_page_in_a_browser(hostile_page: Path, tmp_path: Path) -> None:
    """The document as the browser has built it: the same tokens, nothing run, nothing refused."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--dump-dom",
            hostile_page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    check_hostile(Page(done.stdout))
    assert "<title>Data preview: c.yml</title>" in done.stdout
    assert "CONSOLE" not in done.stderr


def test_the_terminal_is_coloured(tmp_path: Path) -> None:
    from rich.console import Console

    from whet.data.preview.terminal import print_report

    path = config(tmp_path, lines(tmp_path, {"prompt": "one [bold] ", "completion": "two"}))
    report = api.preview(path)
    console = Console(force_terminal=True, color_system="truecolor", width=80, no_color=False)
    with console.capture() as captured:
        print_report(report, console)
    text = captured.get()
    assert "one [bold]" in text and "[[" not in text
    assert "\x1b[38;2;6;40;28;48;2;" in text  # the trained tokens' colours
