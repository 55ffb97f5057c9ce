"""Several quantisations in one pass, in bounded memory, and nothing left behind by an interrupt."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from whet.errors import ExportError
from whet.export.gguf import tensor_bytes, write_gguf, write_ggufs
from whet.export.tensors import CheckpointSource

QUANTS = ["f32", "f16", "q8_0", "q5_k_m", "q4_0", "q2_k"]


class CountingSource(CheckpointSource):
    """Counts reads; ``fail`` is raised instead of the third tensor."""

    def __init__(self, folder: Path, fail: BaseException | None = None) -> None:
        super().__init__(folder)
        self.reads: Counter[str] = Counter()
        self.fail = fail

    def get(self, name: str) -> torch.Tensor:
        self.reads[name] += 1
        if self.fail is not None and len(self.reads) == 3:
            raise self.fail
        return super().get(name)


def test_one_pass_writes_what_single_passes_write(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = CountingSource(tiny_llama_dir)
    targets = {quant: tmp_path / f"{quant}.gguf" for quant in QUANTS}
    counted: list[int] = []
    write_ggufs(source, tiny_llama_dir, targets, name="tiny", on_bytes=counted.append)
    assert set(source.reads.values()) == {1}
    assert set(source.reads) == set(source.names())
    assert sum(counted) == tensor_bytes(source, QUANTS)
    for quant, target in targets.items():
        alone = write_gguf(source, tiny_llama_dir, tmp_path / "alone.gguf", quant, name="tiny")
        assert target.read_bytes() == alone.read_bytes()
        kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}
        assert kinds >= {"f32": {"F32"}, "q5_k_m": {"Q5_K", "Q6_K"}, "q2_k": {"Q2_K", "Q3_K"}}.get(quant, set())


@pytest.mark.parametrize("fail", [KeyboardInterrupt(), ExportError("a damaged file")], ids=["ctrl-c", "error"])
def test_nothing_is_left_behind(fail: BaseException, tiny_llama_dir: Path, tmp_path: Path) -> None:
    targets = {quant: tmp_path / f"{quant}.gguf" for quant in ("q8_0", "q4_k_m")}
    targets["q8_0"].write_bytes(b"an earlier file")
    with pytest.raises(type(fail)):
        write_ggufs(CountingSource(tiny_llama_dir, fail), tiny_llama_dir, targets, name="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["q8_0.gguf"]
    assert targets["q8_0"].read_bytes() == b"an earlier file"
    assert [thread for thread in threading.enumerate() if thread.name.startswith("whet-")] == []


def test_a_weight_that_is_not_finite_is_named(tiny_llama_dir: Path, tmp_path: Path) -> None:
    class Broken(CheckpointSource):
        def get(self, name: str) -> torch.Tensor:
            weight = super().get(name)
            if name.endswith("layers.1.self_attn.o_proj.weight"):
                weight[0, 0] = float("nan")
            return weight

    with pytest.raises(ExportError, match=r"blk\.1\.attn_output\.weight holds a weight that is infinite"):
        write_gguf(Broken(tiny_llama_dir), tiny_llama_dir, tmp_path / "m.gguf", "q4_k_m", name="tiny")
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from whet.export import streaming
from whet.export.gguf import write_ggufs
from whet.export.tensors import CheckpointSource

torch.set_num_threads(1)
streaming.AHEAD_BYTES = 16 * 2**20
folder, out = Path(sys.argv[1]), Path(sys.argv[2])

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024

def watch():
    while not done.is_set():
        peaks.append(held())
        time.sleep(0.002)

tiny = Path(sys.argv[3])  # written first, for what imports allocate once
write_ggufs(CheckpointSource(tiny), tiny, {"q4_k_m": out / "tiny.gguf"}, name="tiny")
targets = {quant: out / f"{quant}.gguf" for quant in ("f16", "q8_0", "q4_k_m")}
done, peaks, before = threading.Event(), [], held()
watcher = threading.Thread(target=watch)
watcher.start()
write_ggufs(CheckpointSource(folder), folder, targets, name="large")
done.set()
watcher.join()
print(max(peaks) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_few_tensors(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """A model in shards, 40 times its largest tensor: 320 MiB in float32, written within 128 MiB."""
    folder = _sharded_model(tiny_llama_dir, tmp_path / "model")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "out"), str(tiny_llama_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 128 * 2**20


def _sharded_model(tokenizer_dir: Path, folder: Path) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2, bos_token_id=None, **sizes, **heads)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50MB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder
