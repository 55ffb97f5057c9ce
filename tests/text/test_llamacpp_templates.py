"""llama.cpp's own Jinja engine writes what Python's does: a GGUF says what was trained."""

from __future__ import annotations

import pytest
from conversations import samples
from transformers import AutoTokenizer

from whet.export.adapter import resolve_source
from whet.export.gguf import write_gguf
from whet.llamacpp import LlamaServer, available
from whet.text.chat import bundled_chat_template
from whet.text.templates import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_llama_cpp_writes_the_same_prompt(name, tiny_llama_dir, tmp_path):
    if not available():
        pytest.skip("llama.cpp is not installed")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    template = bundled_chat_template(name, tokenizer)
    tokenizer.chat_template = template.jinja
    weights, folder = resolve_source(str(tiny_llama_dir))
    file = write_gguf(weights, folder, tmp_path / "m.gguf", "f16", name="test", chat_template=template.jinja)
    system = None if template.pieces is None or template.pieces.system else False
    with LlamaServer(file, n_ctx=256, threads=1) as server:
        for messages in samples(25, system=system, answered=False):
            written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert server.render(messages) == written
