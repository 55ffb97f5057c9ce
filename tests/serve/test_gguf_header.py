from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from whet.errors import ModelError
from whet.export.gguf_header import read_header


def test_values_equal_those_of_the_gguf_package(starter_gguf: Path):
    header = read_header(starter_gguf)
    fields = gguf.GGUFReader(starter_gguf).fields
    lists = {name for name, field in fields.items() if field.types[0] == gguf.GGUFValueType.ARRAY}
    expected = {
        name: field.contents() for name, field in fields.items() if name not in lists and not name.startswith("GGUF.")
    }
    assert header == expected
    assert header["llama.context_length"] == 2048 and "tokenizer.chat_template" in header


def test_every_kind_of_value(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "kinds.gguf", "llama")
    writer.add_array("a.lists", [[1, 2], [3]])
    writer.add_array("a.texts", ["x", "分类"])
    writer.add_array("a.numbers", [1.5, 2.5])
    writer.add_bool("truth", True)
    writer.add_int8("small", -3)
    writer.add_uint64("large", 2**40)
    writer.add_float64("exact", 0.1)
    writer.add_string("text", "分类 🙂")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = read_header(tmp_path / "kinds.gguf")
    del found["general.architecture"]
    assert found == {"truth": True, "small": -3, "large": 2**40, "exact": 0.1, "text": "分类 🙂"}


@pytest.mark.parametrize("keep", [4, 20, 30, 200, 20_000])
def test_a_file_cut_short(starter_gguf: Path, tmp_path: Path, keep: int):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(starter_gguf.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged"):
        read_header(cut)


def test_no_gguf(tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(b"PK..")
    with pytest.raises(ModelError, match="not a GGUF"):
        read_header(tmp_path / "x.gguf")
    with pytest.raises(ModelError, match="no file"):
        read_header(tmp_path / "y.gguf")
