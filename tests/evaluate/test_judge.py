"""The judge against a real server on this machine, which favours longer answers or the first place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from whet.errors import DataError
from whet.evaluate.tasks import judge as judge_module
from whet.evaluate.tasks.judge import Judge, Pair, address_of, verdict_in


class Server:
    """What was asked, and how to answer: "longer", "first", or a number (a status)."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.manner: str | int = "longer"
        self.fail_first = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                assert self.path == "/v1/chat/completions"
                status = outer.manner if isinstance(outer.manner, int) else 200
                if outer.fail_first:
                    outer.fail_first -= 1
                    status = 503
                text = body["messages"][-1]["content"]
                a, b = (text.split(f"Answer {name}:\n")[1].split("\n\n")[0] for name in "AB")
                choice = "A" if outer.manner == "first" or len(a) > len(b) else "B" if len(b) > len(a) else "TIE"
                reply = {"choices": [{"message": {"content": f"Let me see. A or B?\n\n**{choice}**"}}]}
                data = json.dumps(reply if status == 200 else {"error": "no such model"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv(judge_module.KEY_VARIABLE, raising=False)
    monkeypatch.setattr(judge_module, "WAIT_S", 0.01)
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


PAIRS = [Pair("q", "short", "much longer"), Pair("q", "much longer", "short"), Pair("q", "same", "same"),
         Pair("q {a}", "abc", "xyz", "gold")]  # fmt: skip


def test_both_orders_are_asked_and_answers_kept(server: Server, tmp_path: Path):
    judge = Judge(server.url, "m", tmp_path / "j.jsonl")
    assert judge.opinions(PAIRS) == [1.0, 0.0, 0.5, 0.5]
    assert len(server.asked) == 6  # two of each pair, none of equal texts
    assert server.keys == [None] * 6
    assert all(body["temperature"] == 0 and body["model"] == "m" for body in server.asked)
    assert any("gold" in body["messages"][-1]["content"] for body in server.asked)
    assert Judge(server.url, "m", tmp_path / "j.jsonl").opinions(PAIRS) == [1.0, 0.0, 0.5, 0.5]
    assert len(server.asked) == 6
    Judge(server.url, "another", tmp_path / "j.jsonl").opinions(PAIRS[:1])
    assert len(server.asked) == 8


def test_a_judge_that_favours_the_first_place_says_nothing(server: Server, tmp_path: Path):
    server.manner = "first"
    assert Judge(server.url, "m", tmp_path / "j.jsonl").opinions(PAIRS) == [0.5] * 4


def test_the_key_is_sent_and_stored_nowhere(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Judge(server.url, "m", tmp_path / "j.jsonl", "secret-1").opinions(PAIRS[:1])
    assert set(server.keys) == {"Bearer secret-1"}
    monkeypatch.setenv(judge_module.KEY_VARIABLE, "secret-2")
    Judge(server.url, "m", tmp_path / "j.jsonl").opinions(PAIRS[1:2])
    assert server.keys[-1] == "Bearer secret-2"
    assert all("secret" not in file.read_text() for file in tmp_path.iterdir())


def test_trouble(server: Server, tmp_path: Path):
    server.fail_first = 2
    assert Judge(server.url, "m", tmp_path / "j.jsonl").opinions(PAIRS[:1]) == [1.0]
    server.manner = 404
    with pytest.raises(DataError, match=r"404.*no such model"):
        Judge(server.url, "m", tmp_path / "j.jsonl").opinions(PAIRS)
    with pytest.raises(DataError, match="gave no opinion"):
        Judge("http://127.0.0.1:9", "m", tmp_path / "k.jsonl").opinions(PAIRS)


def test_addresses_and_verdicts():
    assert address_of("http://h:1") == address_of("http://h:1/v1/") == "http://h:1/v1/chat/completions"
    assert address_of("https://h/v1/chat/completions") == "https://h/v1/chat/completions"
    with pytest.raises(DataError):
        address_of("localhost:8000")
    assert [verdict_in(t) for t in ("A", "so: b", "A\nTIE.", "", "neither of them", "Answer **B**")] == [
        "A", "B", "TIE", "TIE", "TIE", "B"]  # fmt: skip


def test_the_whole_verb_with_a_judge(server: Server, tmp_path: Path, tiny_llama_dir: Path):
    from compared_run import train

    from whet import api

    run = train(tmp_path, tiny_llama_dir, save_steps=None)
    report = api.compare(run, n=3, judge=server.url, judge_model="m", max_new_tokens=4)
    found = report.comparison
    assert found.main.name == "judge" and found.results["judge"].shape == (2, 3)
    assert (found.results["judge"][0] == 0.5).all()
    lengths = [[len(said.answer.text) for said in each] for each in found.said]
    expected = [0.5 if a == b else float(b > a) for a, b in zip(*lengths, strict=True)]
    assert found.results["judge"][1].tolist() == expected
    assert "preferred by the judge in" in report.verdict and "50% is a tie" in report.verdict
    with pytest.raises(DataError, match="--judge-model"):
        api.compare(run, judge=server.url)
