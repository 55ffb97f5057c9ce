"""Several quantisations in one folder, and what happens to the files that lie there already."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from modelfile_reader import read_modelfile

from whet.errors import ExportError, OutputError
from whet.export.folder import Exported, write_exports
from whet.export.tensors import CheckpointSource
from whet.text.template import Turn, TurnTemplate, bundled

FRAME = TurnTemplate(user=Turn("Question: ", "\n"), assistant=Turn("SQL: ", "<|im_end|>"))


def _write(folder: Path, out: Path, *quants: str, **settings: object) -> list[Exported]:
    return write_exports(CheckpointSource(folder), folder, out, quants, name="tiny", **settings)  # type: ignore[arg-type]


def _points_at(modelfile: Path) -> str:
    return dict(read_modelfile(modelfile.read_text()))["from"]


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_one_quantisation(tiny_llama_dir: Path, tmp_path: Path) -> None:
    [only] = _write(tiny_llama_dir, tmp_path / "out", "fast_quantized", template=bundled("chatml"), num_ctx=512)
    assert _names(tmp_path / "out") == ["Modelfile", "model.q8_0.gguf"]
    assert only == Exported("q8_0", tmp_path / "out/model.q8_0.gguf", tmp_path / "out/Modelfile", only.bytes)
    assert only.bytes == only.gguf.stat().st_size
    commands = dict(read_modelfile(only.modelfile.read_text()))
    assert commands["from"] == "./model.q8_0.gguf"
    assert commands["stop"] == "<|im_end|>"
    assert commands["num_ctx"] == "512"


def test_each_of_several_has_its_own_modelfile(tiny_llama_dir: Path, tmp_path: Path) -> None:
    written = _write(tiny_llama_dir, tmp_path / "out", "f16", "q8_0", "not_quantized")
    assert [item.quant for item in written] == ["f16", "q8_0"]
    names = ["Modelfile", "Modelfile.f16", "Modelfile.q8_0", "model.f16.gguf", "model.q8_0.gguf"]
    assert _names(tmp_path / "out") == names
    assert all(_points_at(item.modelfile) == f"./{item.gguf.name}" for item in written)
    assert _points_at(tmp_path / "out/Modelfile") == "./model.f16.gguf"


def test_a_later_export_keeps_the_earlier_one_usable(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """As the tutorial does it: q8_0 first, then two more into the same folder."""
    out = tmp_path / "out"
    _write(tiny_llama_dir, out, "q8_0")
    _write(tiny_llama_dir, out, "bf16", "f16")
    assert _points_at(out / "Modelfile") == "./model.bf16.gguf"
    for quant in ("q8_0", "bf16", "f16"):
        assert _points_at(out / f"Modelfile.{quant}") == f"./model.{quant}.gguf"


def test_a_modelfile_by_hand_is_kept(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/Modelfile").write_text("FROM ./model.f16.gguf\nSYSTEM mine\n")
    _write(tiny_llama_dir, tmp_path / "out", "f16")
    assert (tmp_path / "out/Modelfile.old").read_text() == "FROM ./model.f16.gguf\nSYSTEM mine\n"


def test_without_a_template_the_end_token_stops(tiny_llama_dir: Path, tmp_path: Path) -> None:
    [only] = _write(tiny_llama_dir, tmp_path, "f16")
    commands = dict(read_modelfile(only.modelfile.read_text()))
    assert "template" not in commands
    assert commands["stop"] == "<|im_end|>"


@pytest.mark.parametrize(
    ("settings", "want"),
    [({}, "own"), ({"template": FRAME}, "frame"), ({"template": FRAME, "chat_template": ""}, None)],
    ids=["the tokenizer's", "the template's", "none"],
)
def test_which_jinja_is_embedded(
    settings: dict[str, object], want: str | None, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    [only] = _write(tiny_llama_dir, tmp_path, "f16", **settings)
    field = gguf.GGUFReader(only.gguf).fields.get("tokenizer.chat_template")
    known = {"own": (tiny_llama_dir / "chat_template.jinja").read_text(), "frame": FRAME.jinja(), None: None}
    assert (None if field is None else field.contents()) == known[want]


def test_nothing_appears_when_something_cannot_be_written(tiny_llama_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="no place"):
        _write(tiny_llama_dir, out, "f16", template=FRAME, system="You write SQL.")
    with pytest.raises(ExportError, match="no chat template"):
        _write(tiny_llama_dir, out, "f16", chat_template="", system="You write SQL.")
    with pytest.raises(ExportError, match="q5_x"):
        _write(tiny_llama_dir, out, "f16", "q5_x")
    with pytest.raises(ExportError, match="no quantisation"):
        _write(tiny_llama_dir, out)
    out.write_text("a file")
    with pytest.raises(OutputError):
        _write(tiny_llama_dir, out, "f16")
    assert _names(tmp_path) == ["out"]


def test_same_model_same_bytes(tiny_llama_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tiny_llama_dir, tmp_path / name, "q8_0", template=bundled("chatml"), system="You write SQL.")
    for file in _names(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
