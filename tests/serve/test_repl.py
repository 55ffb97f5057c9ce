"""The chat as a user meets it: stdin, stdout, stderr, signals, a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whet.evaluate.generate import greedy_answers
from whet.llamacpp import available
from whet.serve.repl import chat

needs_llamacpp = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")
QUESTION = "How many singers are there?"
PROGRAM = "import sys; from whet.serve.repl import chat; chat(sys.argv[1], max_tokens=400)"


def test_one_prompt_gives_the_answer_alone(starter, capsys):
    assert chat("starter", prompt=QUESTION, max_tokens=30) is None
    (expected,) = greedy_answers(
        starter.model, starter.tokenizer, [[{"role": "user", "content": QUESTION}]], max_new_tokens=30
    )
    assert capsys.readouterr().out == expected.rstrip("\n") + "\n"


def test_a_conversation_from_a_pipe(starter, capsys, monkeypatch):
    lines = [QUESTION, "", "/nonsense", "/system", "/system You write SQL.", "/reset", QUESTION, "/exit", "never read"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    chat("starter", max_tokens=20)
    shown = capsys.readouterr()
    question = {"role": "user", "content": QUESTION}
    expected = greedy_answers(
        starter.model,
        starter.tokenizer,
        [[question], [{"role": "system", "content": "You write SQL."}, question]],
        max_new_tokens=20,
    )
    assert shown.out == "".join(answer + "\n" for answer in expected)
    assert "/nonsense is no command" in shown.err and "(system message: none)" in shown.err
    assert "(system message: You write SQL.)" in shown.err and "2,048 tokens of context" in shown.err


def test_an_error_does_not_end_the_conversation(tiny_llama_dir: Path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("fox " * 900 + "\nHello\n"))
    chat(tiny_llama_dir, max_tokens=10)
    shown = capsys.readouterr()
    assert "error: the message has" in shown.err and "Traceback" not in shown.err
    assert shown.out.endswith("\n") and len(shown.out) > 1


@needs_llamacpp
def test_ctrl_c_stops_the_answer_and_not_the_program(tiny_gguf: Path):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tiny_gguf)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    program.stdin.write(b"Hello\n")
    program.stdin.flush()
    os.read(program.stdout.fileno(), 1)  # the answer has begun
    program.send_signal(signal.SIGINT)
    rest, said = program.communicate(b"/reset\n", timeout=120)
    assert program.returncode == 0
    assert b"(stopped)" in said and b"(the conversation is forgotten)" in said and b"Traceback" not in said
    assert len(rest) < 1200


@needs_llamacpp
def test_at_a_terminal(starter_gguf: Path, tmp_path: Path):
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(starter_gguf)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    os.close(theirs)
    shown = _until(ours, b"> ")
    os.write(ours, QUESTION.encode() + b"\n")
    shown += _until(ours, b"h> ")  # the end of what switches marks around pastes on
    while not select.select([ours], [], [], 1)[0]:  # a signal just before the wait for a key is heard at the next one
        program.send_signal(signal.SIGINT)
    shown += _until(ours, b"h> ")
    os.write(ours, b"\x1b[200~first line\nsecond line\x1b[201~\n")
    shown += _until(ours, b"tokens/s")
    os.write(ours, b"/history\n")
    shown += _until(ours, b"user: first line\r\nsecond line\r\nassistant: ", b"h> ")  # else Ctrl-D is the terminal's
    os.write(ours, b"\x04")
    assert program.wait(timeout=60) == 0
    os.close(ours)
    assert b"SELECT" in shown and b"Ctrl-D or /exit leaves" in shown and b"Traceback" not in shown
    history = tmp_path / "whet" / "chat_history"
    assert history.read_text().splitlines() == [QUESTION, "first line", "second line", "/history"]
    assert history.stat().st_mode & 0o077 == 0


def _until(terminal: int, *marks: bytes) -> bytes:
    """What is shown until all marks have come, in this order."""
    shown = b""
    while not re.search(b".*?".join(map(re.escape, marks)), shown, re.DOTALL):
        shown += os.read(terminal, 1024)
    return shown
