"""The command line as a user meets it: real processes where they are cheap, exit codes, messages without traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from whet.cli import main
from whet.errors import ConfigError, ProofFailed, Unproved


def whet(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whet.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = "import sys; from whet.cli.main import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {verb} " in done.stdout for verb in main.VERBS)
    heavy = {"torch", "transformers", "datasets", "pydantic", "yaml", "rich", "typer", "numpy", "click"}
    assert heavy & set(done.stderr.split()) == set()


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help_without_its_work(verb: str) -> None:
    code = f"import sys; from whet.cli.main import run; run(['{verb}', '--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert main.VERBS[verb] in " ".join(done.stdout.split())
    assert {"torch", "transformers", "datasets", "pydantic"} & set(done.stderr.split()) == set()


def test_version() -> None:
    from importlib.metadata import version

    done = whet("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"whet {version('whet')}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], 'there is no verb "trian"'),
        (["trian"], 'did you mean "train"?'),
        (["--verson"], 'did you mean "--version"?'),
        (["chat", "x", "--promt", "y"], "--prompt"),
        (["train"], "CONFIG.yml"),
        (["chat", "x", "--max-tokens", "many"], "--max-tokens"),
        (["chat", "x", "--max-tokens", "0"], "--max-tokens"),
        (["chat", "x", "--temperature", "-1"], "--temperature"),
        (["train", "a.yml", "b.yml"], "b.yml"),
        (["export"], "RUN"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and words in captured.err and "Traceback" not in captured.err
    assert captured.out == ""


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 2
    assert "verbs:" in capsys.readouterr().out


@pytest.fixture
def verb_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Add a verb ``boom`` that raises."""

    def add(error: BaseException) -> None:
        def boom() -> None:
            raise error

        module = ModuleType("whet.cli.boom")
        module.boom = boom  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "whet.cli.boom", module)
        monkeypatch.setitem(main.VERBS, "boom", "fails")

    return add


def out_of_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (
            lambda: ConfigError("given", "expected this", "do that"),
            2,
            "error: given\n  expected: expected this\n  to do",
        ),
        (lambda: ProofFailed("not the same"), 1, "error: not the same"),
        (lambda: Unproved("nothing to compare"), 3, "error: nothing to compare"),
        (lambda: OSError(28, "No space left on device", "/out/x"), 2, "error: the disk is full: cannot write /out/x"),
        (lambda: PermissionError(13, "Permission denied", "/out/x"), 2, "error: not allowed to write /out/x"),
        (lambda: OSError(30, "Read-only file system", "/out/x"), 2, "error: not allowed to write /out/x"),
        (lambda: KeyboardInterrupt(), 130, "\nstopped by Ctrl-C\n"),
        (lambda: ValueError("first\nsecond"), 1, "error: this is a bug in whet: ValueError: first second"),
        (lambda: ModuleNotFoundError("no", name="xllamacpp"), 2, "error: the package xllamacpp is not installed"),
        (lambda: ModuleNotFoundError("no", name="whet.nothing"), 1, "this is a bug in whet"),
        (out_of_memory, 2, "error: out of memory"),
    ],
)
def test_exit_codes_and_messages(
    make: Callable[[], BaseException],
    code: int,
    words: str,
    verb_that: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb_that(make())
    assert main.run(["boom"]) == code
    message = capsys.readouterr().err
    assert message.startswith(words) or words in message
    assert "Traceback" not in message


@pytest.mark.parametrize("arguments", [["--debug", "boom"], ["boom", "--debug"]])
def test_debug_shows_the_traceback(
    arguments: list[str], verb_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb_that(ConfigError("given"))
    assert main.run(arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" in message and "error: given" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_standard_output_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "whet.cli.main", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0][:24]) == (2, "error: the disk is full:")


def test_a_reader_that_has_gone() -> None:
    code = "import time; time.sleep(0.2); from whet.cli.main import entry; entry()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


class TestTrainRefusesBadInput:
    """``whet train`` as a process: one message, exit code 2, nothing written."""

    GOOD = "base_model: starter\ndatasets:\n  - path: rows.jsonl\n    type: completion\nsequence_len: 64\n"

    @pytest.fixture(autouse=True)
    def _needs_the_verbs(self) -> None:
        if not (Path(main.__file__).parents[1] / "api.py").exists():
            pytest.skip("whet/api.py is not there yet")

    def refused(self, folder: Path, *arguments: str) -> str:
        before = sorted(os.listdir(folder))
        done = whet("train", *arguments, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(os.listdir(folder)) == before
        return done.stderr

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("- a\n- b\n", "c.yml:1: the config is a list"),
            ("", "the config is empty"),
            (GOOD + "learing_rate: 1\n", 'c.yml:6: unknown key "learing_rate"'),
            (GOOD + "lora_r: many\n", 'c.yml:6: lora_r is "many"'),
            (GOOD, "rows.jsonl: no such file"),
        ],
    )
    def test_the_config(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "c.yml").write_text(text)
        message = self.refused(tmp_path, "c.yml")
        assert words in message and message.count("error:") == 1

    def test_a_missing_config(self, tmp_path: Path) -> None:
        (tmp_path / "config.yml").write_text(self.GOOD)
        assert 'did you mean "config.yml"?' in self.refused(tmp_path, "confg.yml")

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ("", "rows.jsonl: the file is empty"),
            ('{"txt": "a"}\n', 'no column "text"'),
            ('{"text": "a"}\n{"text": \n', "rows.jsonl:2: the line is damaged"),
            ('{"text": ""}\n', "no row is left"),
        ],
    )
    def test_the_rows(
        self, tmp_path: Path, rows: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In this process, where torch is imported already; ``test_damaged_rows`` starts one."""
        (tmp_path / "c.yml").write_text(self.GOOD)
        (tmp_path / "rows.jsonl").write_text(rows)
        monkeypatch.chdir(tmp_path)
        assert main.run(["train", "c.yml"]) == 2
        shown = capsys.readouterr().err
        assert words in shown and "Traceback" not in shown
        assert sorted(os.listdir(tmp_path)) == ["c.yml", "rows.jsonl"]

    def test_damaged_rows(self, tmp_path: Path) -> None:
        (tmp_path / "c.yml").write_text(self.GOOD)
        (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": \n')
        assert "rows.jsonl:2: the line is damaged" in self.refused(tmp_path, "c.yml")
