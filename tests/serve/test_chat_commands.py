"""The slash commands of `whet chat`, blocks of lines, settings, and a model in Ollama."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from whet.errors import DataError, ExportError, ModelError
from whet.evaluate.generate import greedy_answers
from whet.export.ollama import OllamaClient
from whet.export.ollama_names import ollama_address
from whet.models.load import load_for_inference
from whet.serve.commands import read_setting
from whet.serve.conversation import Conversation
from whet.serve.ollama_backend import OllamaBackend
from whet.serve.repl import chat
from whet.serve.sampling import Sampling

QUESTION = "How many singers are there?"
GREEDY = Sampling(temperature=0)


def _chat(monkeypatch: pytest.MonkeyPatch, capsys: Any, path: Any, *lines: str, **options: Any) -> tuple[str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    chat(path, **{"max_tokens": 16, **options})
    shown = capsys.readouterr()
    return shown.out, shown.err


def _greedy(starter: Any, *turns: str) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
    return greedy_answers(starter.model, starter.tokenizer, [messages], max_new_tokens=16)[0]


@pytest.fixture(scope="module")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter that changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("chat") / "run"
    model, tokenizer = load_for_inference("starter")
    torch.manual_seed(5)
    tuned = get_peft_model(model, LoraConfig(r=8, init_lora_weights=False, target_modules=["q_proj", "down_proj"]))
    tuned.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    (folder / "config.yml").write_text("base_model: starter\nadapter: lora\n")
    return folder


def test_regen_takes_the_place_of_the_answer(starter: Any, monkeypatch, capsys, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    lines = ["/regen", QUESTION, "/regen", "And in France?", f"/save {file}", "/reset", f"/save {file}"]
    said, told = _chat(monkeypatch, capsys, "starter", *lines, system=None)
    first = _greedy(starter, QUESTION)
    second = _greedy(starter, QUESTION, first, "And in France?")
    assert said == f"{first}\n{first}\n{second}\n"
    assert "there is no question yet" in told and "temperature 0" in told and "nothing to save yet" in told
    (saved,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert [message["content"] for message in saved["messages"]] == [QUESTION, first, "And in France?", second]
    assert told.count("tokens/s") == 3


def test_saved_conversations_can_be_trained_on(monkeypatch, capsys, tmp_path: Path) -> None:
    from whet import api

    file = tmp_path / "talks.jsonl"
    for question in (QUESTION, "Who won in 1999?"):
        _chat(monkeypatch, capsys, "starter", question, f"/save {file}", system="You write SQL.")
    config = tmp_path / "c.yml"
    config.write_text(f"base_model: starter\nsequence_len: 256\ndatasets:\n  - path: {file}\n    type: chat_template\n")
    report = api.preview(config, rows=1)
    report.check()
    report.print()
    assert "You write SQL." in capsys.readouterr().out


def test_regen_with_another_seed_says_something_else(monkeypatch, capsys) -> None:
    lines = ["/set temperature 1.5", "/set seed 3", QUESTION, "/regen", "/set seed 4", "/regen", "/set"]
    said, told = _chat(monkeypatch, capsys, "starter", *lines)
    first, same, other = said.splitlines()[:3] if said.count("\n") == 3 else (said, said, "")
    assert first == same != other
    assert "temperature 1.5, top_k 40, top_p 0.95, min_p 0.05, seed 4, max_tokens 16" in told


def test_compare_shows_base_and_tuned(starter: Any, tuned_run: Path, monkeypatch, capsys) -> None:
    """Of an adapter the base is the same model without it; the conversation goes on as if nothing was asked."""
    lines = ["/compare", QUESTION, "/compare", "/history", "/reset", "/compare Who won?"]
    said, told = _chat(monkeypatch, capsys, tuned_run, *lines)
    assert "error: there is no question yet" in told
    answer, _, tables = said.partition("\n")
    assert "base" in tables and "tuned" in tables and "tokens/s" in tables
    for question in (QUESTION, "Who won?"):
        assert _greedy(starter, question)[:30] in tables
    assert answer[:30] in tables and answer != _greedy(starter, QUESTION)
    assert told.count("user: ") == 1


def test_compare_with_a_named_base(starter: Any, starter_gguf: Path, tuned_run: Path, monkeypatch, capsys) -> None:
    said, _ = _chat(monkeypatch, capsys, "starter", f"/compare {QUESTION}", base=str(tuned_run))
    assert _greedy(starter, QUESTION)[:30] in said
    _, told = _chat(monkeypatch, capsys, "starter", f"/compare {QUESTION}")
    assert "add --base PATH" in told


def test_lines_between_quotation_marks_are_one_message(starter: Any, monkeypatch, capsys) -> None:
    said, told = _chat(monkeypatch, capsys, "starter", '"""first', "second", 'third"""', '"""', "a", '"""', "/history")
    assert said.startswith(_greedy(starter, "first\nsecond\nthird"))
    assert "user: first\nsecond\nthird\n" in told and "user: a\n" in told


def test_all_of_stdin_is_one_prompt(starter: Any, monkeypatch, capsys) -> None:
    said, told = _chat(monkeypatch, capsys, "starter", "How many", "singers?", prompt="-")
    assert said == _greedy(starter, "How many\nsingers?\n") + "\n" and "tokens/s" in told


def test_commands_that_are_wrong(monkeypatch, capsys, tmp_path: Path) -> None:
    lines = [
        "/sytem x",
        "/set temprature 1",
        "/set top_p 7",
        "/save",
        "/help",
        "/system Short.",
        "/system none",
        "/bye",
        "no",
    ]
    said, told = _chat(monkeypatch, capsys, "starter", *lines)
    assert said == ""
    for part in ("/system", "temperature", "from 1e-06 to 1", "/save FILE.jsonl", "/compare", "message: none"):
        assert part in told
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "talks.jsonl"
    _, told = _chat(monkeypatch, capsys, "starter", QUESTION, f"/save {place}", f"/save {tmp_path}", QUESTION)
    assert told.count("error: ") == 2 and "Traceback" not in told and told.count("tokens/s") == 2


def test_settings_from_text() -> None:
    assert read_setting("temperature", "0.5") == 0.5 and read_setting("top_k", "0") == 0
    assert read_setting("seed", "none") is None
    for name, text in (("temperature", "-1"), ("temperature", "warm"), ("top_k", "1.5"), ("max_tokens", "0")):
        with pytest.raises(DataError, match=name):
            read_setting(name, text)


class _Ollama(BaseHTTPRequestHandler):
    """Ollama's /api/version, /api/tags and /api/chat, by its docs/api.md; it says back what it was asked."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012
    ends = True

    def do_GET(self) -> None:
        known = {"/api/version": {"version": "0.99.0"}, "/api/tags": {"models": [{"name": "sql:latest"}]}}
        self._send(json.dumps(known[self.path]).encode() + b"\n")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        words = body["messages"][-1]["content"].split()
        lines: list[dict[str, Any]] = [
            {"message": {"role": "assistant", "content": word + " "}, "done": False} for word in words
        ]
        if self.ends:
            lines.append({"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": len(words) + 1})
        self._send(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Ollama]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ollama)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
    _Ollama.asked, _Ollama.ends = [], True
    yield _Ollama
    server.shutdown()
    server.server_close()


def test_a_model_in_ollama(ollama: type[_Ollama], monkeypatch, capsys) -> None:
    lines = ["one two three", "and four", "/regen"]
    options = {"temperature": 0.3, "top_k": 7, "seed": 11, "system": "Be short."}
    said, told = _chat(monkeypatch, capsys, "ollama:sql", *lines, **options)
    assert said == "one two three \nand four \nand four \n" and "(4 tokens" in told
    first, second, third = ollama.asked
    assert first["model"] == "sql" and first["stream"] is True
    assert first["options"] == {
        "num_predict": 16,
        "temperature": 0.3,
        "top_k": 7,
        "top_p": 0.95,
        "min_p": 0.05,
        "seed": 11,
    }
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert third == second


def test_ollama_that_cannot(ollama: type[_Ollama], monkeypatch, capsys) -> None:
    with pytest.raises(ModelError, match=r"no model 'poems'[\s\S]*sql:latest"):
        OllamaBackend("poems")
    ollama.ends = False
    conversation = Conversation(OllamaBackend("sql"), None, 5, GREEDY)
    with pytest.raises(ExportError, match="has no end"):
        conversation.ask("one", lambda piece: None)
    assert conversation.turns == []
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(ModelError, match="no Ollama answers"):
        OllamaBackend("sql", OllamaClient(ollama_address()))
