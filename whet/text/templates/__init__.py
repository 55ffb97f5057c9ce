"""The chat templates that come with whet, one small file each, from their public formats."""

from __future__ import annotations

from whet.text.templates.alpaca import ALPACA
from whet.text.templates.chatml import CHATML
from whet.text.templates.format import Format
from whet.text.templates.gemma2 import GEMMA_2
from whet.text.templates.gemma3 import GEMMA_3
from whet.text.templates.llama3 import LLAMA_3
from whet.text.templates.llama31 import LLAMA_31
from whet.text.templates.mistral import MISTRAL
from whet.text.templates.phi3 import PHI_3
from whet.text.templates.qwen3 import QWEN_3
from whet.text.templates.qwen25 import QWEN_25
from whet.text.templates.vicuna import VICUNA
from whet.text.templates.zephyr import ZEPHYR

FORMATS: dict[str, Format] = {
    "llama-3": LLAMA_3,
    "llama-3.1": LLAMA_31,
    "chatml": CHATML,
    "qwen-2.5": QWEN_25,
    "qwen-3": QWEN_3,
    "gemma-2": GEMMA_2,
    "gemma-3": GEMMA_3,
    "phi-3": PHI_3,
    "mistral": MISTRAL,
    "alpaca": ALPACA,
    "vicuna": VICUNA,
    "zephyr": ZEPHYR,
}
