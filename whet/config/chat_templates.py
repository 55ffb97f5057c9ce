"""The names of the chat templates that come with whet, and the other spellings of each (Axolotl's, Unsloth's)."""

from __future__ import annotations

CHAT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "llama-3": ("llama3", "llama_3"),
    "llama-3.1": ("llama3.1", "llama_31", "llama-31", "llama31", "llama-3.2", "llama3.2", "llama-3.3", "llama3.3"),
    "chatml": (),
    "qwen-2.5": ("qwen_25", "qwen-25", "qwen25", "qwen2.5", "qwen_2.5"),
    "qwen-3": ("qwen3", "qwen_3"),
    "gemma-2": ("gemma2", "gemma_2", "gemma"),
    "gemma-3": ("gemma3", "gemma_3"),
    "phi-3": ("phi_3", "phi3", "phi-3.5", "phi_35", "phi-35", "phi3.5"),
    "mistral": ("mistral_v1", "mistral-v1"),
    "alpaca": (),
    "vicuna": (),
    "zephyr": (),
}
SPELLINGS = {spelling: name for name, others in CHAT_TEMPLATES.items() for spelling in (name, *others)}
