"""The importance matrix: collected as llama.cpp does, kept in its format, and of use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from whet.errors import ExportError
from whet.export.calibration import LONGEST, TOKENS, Texts, calibration_texts, collect_importance
from whet.export.gguf import write_ggufs
from whet.export.importance import Importance, read_importance, write_importance
from whet.export.tensors import CheckpointSource
from whet.models.names import starter_folder

LLAMA = gguf.MODEL_ARCH.LLAMA


def _texts(tokenizer: Any, part: slice) -> Texts:
    """Questions of the sample task and their queries."""
    rows = [line for file in sorted(_sample_files()) for line in file.read_text(encoding="utf-8").splitlines()]
    ids = [tokenizer(row)["input_ids"][:LONGEST] for row in rows[part]]
    return Texts([row for row in ids if len(row) > 1], "sample")


def _sample_files() -> list[Path]:
    import whet.sample

    return list((Path(whet.sample.__file__).parent / "data").glob("*.jsonl"))


@pytest.fixture(scope="module")
def starter(load_float32: Callable[..., Any]) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    folder = starter_folder()
    return load_float32(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def matrix(starter: tuple[Any, Any]) -> Importance:
    model, tokenizer = starter
    return collect_importance(model, _texts(tokenizer, slice(0, 120, 2)), LLAMA)


def test_the_sums_are_those_of_the_inputs(starter: tuple[Any, Any]) -> None:
    model, tokenizer = starter
    texts = Texts(_texts(tokenizer, slice(0, 3)).documents, "three")
    found = collect_importance(model, texts, LLAMA)
    seen: list[torch.Tensor] = []
    layer = model.model.layers[2].mlp.down_proj
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()[0].double()))
    with torch.no_grad():
        for document in texts.documents:
            model(input_ids=torch.tensor([document]))
    handle.remove()
    expected = torch.cat(seen).square().mean(0)
    torch.testing.assert_close(found.columns["blk.2.ffn_down.weight"].double(), expected, rtol=1e-5, atol=1e-10)
    assert len(found.columns) == 7 * model.config.num_hidden_layers
    assert not model.model.layers[2].mlp.down_proj._forward_pre_hooks


def test_an_adapter_is_read_with_its_base(
    tiny_llama_dir: Path, make_adapter: Callable[..., Path], load_float32: Callable[..., Any]
) -> None:
    texts = Texts([[1, 5, 9, 20, 33], [7, 8, 9]], "ids")
    adapter = make_adapter(tiny_llama_dir)
    tuned = load_float32(tiny_llama_dir, adapter)
    apart = collect_importance(tuned, texts, LLAMA)
    merged = collect_importance(tuned.merge_and_unload(), texts, LLAMA)
    assert set(apart.columns) == set(merged.columns)
    for name, column in apart.columns.items():
        torch.testing.assert_close(column, merged.columns[name], rtol=1e-3, atol=1e-6)


def test_the_file_comes_back(matrix: Importance, tmp_path: Path) -> None:
    again = read_importance(write_importance(matrix, tmp_path / "m.gguf"))
    assert (again.dataset, again.chunks, again.chunk_size, again.rows) == (
        "sample",
        matrix.chunks,
        LONGEST,
        matrix.rows,
    )
    assert set(again.columns) == set(matrix.columns)
    for name, column in matrix.columns.items():
        torch.testing.assert_close(again.columns[name], column, rtol=1e-5, atol=0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"something else")
    with pytest.raises(ExportError, match="cannot read"):
        read_importance(tmp_path / "no.gguf")


def test_the_matrix_of_another_model_is_refused(matrix: Importance, tiny_llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="columns for blk"):
        write_ggufs(
            CheckpointSource(tiny_llama_dir),
            tiny_llama_dir,
            {"q4_k_m": tmp_path / "m.gguf"},
            name="m",
            importance=matrix,
        )
    assert list(tmp_path.iterdir()) == []


def test_it_lowers_the_divergence_on_held_out_text(
    starter: tuple[Any, Any], matrix: Importance, tmp_path: Path
) -> None:
    """q2_k, q3_k_m and q4_k_m of the starter, on rows that the matrix has not seen."""
    model, tokenizer = starter
    held_out = _texts(tokenizer, slice(1, 41, 2)).documents
    quants = ["q2_k", "q3_k_m", "q4_k_m"]
    for known in (None, matrix):
        name = "plain" if known is None else "weighted"
        (tmp_path / name).mkdir()
        targets = {quant: tmp_path / name / f"{quant}.gguf" for quant in quants}
        write_ggufs(CheckpointSource(starter_folder()), starter_folder(), targets, name="s", importance=known)
    for quant in quants:
        plain, weighted = (
            _divergence(model, tmp_path / name / f"{quant}.gguf", held_out) for name in ("plain", "weighted")
        )
        assert weighted < plain, quant
    fields = gguf.GGUFReader(tmp_path / "weighted" / "q2_k.gguf").fields
    assert fields["quantize.imatrix.entries_count"].contents() == len(matrix.columns)
    assert fields["quantize.imatrix.chunks_count"].contents() == matrix.chunks


def _divergence(model: Any, file: Path, documents: list[list[int]]) -> float:
    """Mean KL(model || model with the file's matrices), computed in transformers."""
    import copy

    rounded = copy.deepcopy(model)
    parts = dict(rounded.named_parameters())
    names = gguf.get_tensor_name_map(LLAMA, model.config.num_hidden_layers)
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    with torch.no_grad():
        for name, parameter in parts.items():
            if parameter.ndim == 2:
                tensor = held[names.get_name(name, try_suffixes=(".weight",))]
                decoded = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
                parameter.copy_(_unpaired(name, decoded.reshape(parameter.shape), model.config))
        total = torch.cat([_kl(model, rounded, torch.tensor([ids])) for ids in documents])
    return float(total.mean())


def _unpaired(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Llama's rotary rows in the order of transformers."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _kl(model: Any, other: Any, ids_1T: torch.Tensor) -> torch.Tensor:
    trained, found = (one(input_ids=ids_1T).logits[0].double().log_softmax(-1) for one in (model, other))
    return (trained.exp() * (trained - found)).sum(-1)


def test_texts_of_a_file(starter: tuple[Any, Any], tmp_path: Path) -> None:
    _, tokenizer = starter
    (tmp_path / "notes.txt").write_text("How many orders were shipped in March? " * 9000, encoding="utf-8")
    texts = calibration_texts(tmp_path / "notes.txt", starter_folder(), tokenizer)
    assert texts.what == "notes.txt"
    assert 0.9 * TOKENS < texts.tokens <= TOKENS + LONGEST
    assert max(map(len, texts.documents)) == LONGEST
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    with pytest.raises(ExportError, match="no text"):
        calibration_texts(tmp_path / "empty.txt", starter_folder(), tokenizer)
    with pytest.raises(ExportError, match="no rows of its own"):
        calibration_texts("run", starter_folder(), tokenizer)


def test_the_export_makes_and_keeps_it(tmp_path: Path) -> None:
    """``--imatrix FILE``: the matrix lies beside the files, and can be used again."""
    from whet.export.run import export_run

    (tmp_path / "notes.txt").write_text("How many orders were shipped in March? " * 40, encoding="utf-8")
    export_run("starter", tmp_path / "a", ["q2_k"], imatrix=tmp_path / "notes.txt", proof=False)
    made = tmp_path / "a" / "model.imatrix.gguf"
    assert read_importance(made).dataset == "notes.txt"
    export_run("starter", tmp_path / "b", ["q2_k"], imatrix=made, proof=False)
    export_run("starter", tmp_path / "c", ["q2_k"], proof=False)
    files = [(tmp_path / folder / "model.q2_k.gguf").read_bytes() for folder in ("a", "b", "c")]
    assert files[1] != files[2]
    assert (tmp_path / "c" / "model.imatrix.gguf").exists() is False
    with pytest.raises(ExportError, match="no file"):
        export_run("starter", tmp_path / "d", ["q2_k"], imatrix=tmp_path / "none.txt", proof=False)
    with pytest.raises(ExportError, match="--to merged"):
        export_run("starter", tmp_path / "d", to="merged", imatrix=made, proof=False)
    assert not (tmp_path / "d").exists()
