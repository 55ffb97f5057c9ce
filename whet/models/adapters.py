"""LoRA on a loaded model (Hu et al. 2021), through PEFT."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from whet.console import notice
from whet.errors import ModelError
from whet.runtime import quick_imports

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDINGS = ("embed_tokens", "lm_head")


def add_lora(
    model: Any,
    *,
    rank: int = 16,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: Sequence[str] | str = ALL_LINEAR,
    bias: str = "none",
    layers_to_transform: Sequence[int] | int | None = None,
    modules_to_save: Sequence[str] | None = None,
    use_rslora: bool = False,
    use_dora: bool = False,
    init_lora_weights: bool | str = True,
    seed: int = 3407,
    task: str = "CAUSAL_LM",
) -> Any:
    """Freeze the model and add trainable matrices A [rank, in] and B [out, rank], held in float32.

    Args:
        alpha: the product is scaled by alpha / rank (by alpha / sqrt(rank) with ``use_rslora``).
        target_modules: names of linear layers, one regular expression, or "all-linear".
        seed: of A's initial values; the caller's random state is left as it was.
        task: PEFT's name for what the model does; with SEQ_CLS its head is trained and saved too.

    Returns:
        A ``PeftModel`` around the model.

    Raises:
        ModelError: the model has an adapter already, or no layer of these names.
    """
    with quick_imports():
        from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ModelError("the model has an adapter already", "a base model", "load the base, or train this adapter on")
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        model.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        bias=bias,  # type: ignore[arg-type]
        layers_to_transform=layers_to_transform,  # type: ignore[arg-type]
        modules_to_save=list(modules_to_save) if modules_to_save else None,
        use_rslora=use_rslora,
        use_dora=use_dora,
        init_lora_weights=init_lora_weights,  # type: ignore[arg-type]
        task_type=task,
    )
    with torch.random.fork_rng(devices=_cuda_devices()), quiet_peft():
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise _no_adapter(model, error) from error
    save_offline(wrapped)
    trained, total = parameter_counts(wrapped)
    notice(f"training {trained:,} of {total:,} parameters ({100 * trained / total:.2f}%)", key="lora size")
    return wrapped


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT reads a property that transformers will rename: nothing that a user can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def save_offline(model: Any) -> None:
    """Let this ``PeftModel`` save without a look at the hub.

    Left to itself, ``save_pretrained`` asks the hub whether the vocabulary was resized. The answer is known here:
    embeddings are saved when the adapter targets them, and whet resizes none.
    """
    config = model.peft_config[model.active_adapter]
    targets = config.target_modules or ()
    embeddings = any(name in targets for name in EMBEDDINGS) if not isinstance(targets, str) else False
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=embeddings)


def parameter_counts(model: Any) -> tuple[int, int]:
    """Trained and all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def _no_adapter(model: Any, error: ValueError) -> ModelError:
    names = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if _is_linear(part)})
    return ModelError(
        f"no adapter can be added: {str(error).splitlines()[0]}", f"layers of this model: {', '.join(names)}"
    )


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def _cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
