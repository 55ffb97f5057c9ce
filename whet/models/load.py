"""Base model, adapter and tokenizer, ready for this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from whet import runtime
from whet.config.sizes import format_size
from whet.console import notice
from whet.errors import ModelError
from whet.models.adapters import quiet_peft, save_offline
from whet.models.names import EXPECTED, STARTER, locate
from whet.models.scores import HEADS, refuse_scorer


def load_model(
    name: str,
    *,
    dtype: torch.dtype | None = None,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    device_map: Any = None,
    token: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    trainable_adapter: bool = False,
    training: bool = False,
    scores: bool = False,
    on_cpu: bool = False,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer; an adapter or run folder loads its base with the adapter on top.

    Args:
        name: "starter", a folder, or a name on the hub.
        dtype: format of the weights; None chooses for this device.
        load_in_4bit: NF4 through bitsandbytes; where device or package cannot, 16 or 32 bits, said once.
        trainable_adapter: leave a loaded adapter's weights trainable.
        training: adapters will be trained on it: the format may be one that is faster and less exact.
        scores: a model that scores texts, with one label; its head is new where the folder has none.
        on_cpu: leave it in main memory, in this device's format (``whet/train/streaming.py`` moves it).

    Returns:
        The model (a ``PeftModel`` where there is an adapter), in eval mode, and the tokenizer.

    Raises:
        ModelError: no such model, no weights, a broken folder; more than the GPU has room for.
    """
    place = locate(name)
    hub = {"token": token, "revision": revision, "trust_remote_code": trust_remote_code}
    choice = _format(dtype, training)
    quantisation = _quantisation(load_in_4bit, load_in_8bit, choice.dtype)
    here = runtime.device()
    if training and here.type == "cpu":
        runtime.keep_freed_memory()
    options: dict[str, Any] = {"dtype": choice.dtype, **hub}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    if quantisation is not None:
        options |= {"quantization_config": quantisation, "device_map": device_map or {"": here}}
    elif device_map is not None:
        options["device_map"] = device_map
    if not scores:
        refuse_scorer(place)
    model = _base(place.base, options, scores)
    if "device_map" not in options and not on_cpu:
        _move(model, here, name)
    if place.adapter is not None:
        model = _with_adapter(model, place.adapter, trainable_adapter)
    tokenizer = load_tokenizer(place.tokenizer, hub)
    if scores:
        model.config.pad_token_id = tokenizer.pad_token_id  # transformers scores the last token that is not this one
    return model.eval(), tokenizer


def _format(asked: torch.dtype | None, training: bool) -> Any:
    """The weights' format on this machine, said where it is not what one would think."""
    choice = runtime.weight_dtype(asked, training=training)
    if choice.dtype is not (asked or torch.float32) and (asked is not None or runtime.device().type == "cpu"):
        notice(f"weights are held in {str(choice.dtype).removeprefix('torch.')}: {choice.reason}")
    return choice


def _base(name: str, options: dict[str, Any], scores: bool) -> Any:
    starter = name == locate(STARTER).base
    with _without_bars() if starter else contextlib.nullcontext():
        model = _scorer(name, options) if scores else _from_pretrained(AutoModelForCausalLM, name, options)
    if starter:
        model.name_or_path = model.config._name_or_path = STARTER  # saved adapters then load on any machine
    return model


def _move(model: Any, device: torch.device, name: str) -> None:
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        size = format_size(sum(weight.nbytes for weight in model.parameters()))
        raise ModelError(
            f"{name} takes {size} in this format, more than the GPU has left ({str(error).split('. ')[0]})",
            "a model that fits",
            "to train it: adapter: qlora, or stream_weights: true; to talk to it: whet export it --to gguf "
            "--quant q4_k_m, and whet chat that file",
        ) from error


def _scorer(name: str, options: dict[str, Any]) -> Any:
    """A model with one score; transformers' table of missing weights is said in one line instead."""
    if "quantization_config" in options:
        options["quantization_config"].llm_int8_skip_modules = [*HEADS]  # the head is trained
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, about = _from_pretrained(
            AutoModelForSequenceClassification, name, {**options, "num_labels": 1, "output_loading_info": True}
        )
    finally:
        logging.set_verbosity(verbosity)
    if about["missing_keys"]:
        notice("the head that scores is new: its weights are drawn by seed")
    return model


def load_for_inference(name: str) -> tuple[Any, Any]:
    """The model and tokenizer to talk to, with this machine's defaults."""
    return load_model(name)


def load_tokenizer(name: str, hub: dict[str, Any]) -> Any:
    """The tokenizer of a folder or hub name, with a pad token that is not the end token.

    Padding with the end token teaches some trainers to mask it away; whet's labels do not depend on it, but other
    tools that read the folder may.
    """
    tokenizer = _from_pretrained(AutoTokenizer, name, hub)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _unused_special(tokenizer) or tokenizer.eos_token
    return tokenizer


def context_length(config: Any, asked: int) -> int:
    """``asked`` tokens, or what the model can where that is less, said once."""
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or asked <= limit:
        return asked
    notice(f"the model reads at most {limit:,} tokens: {asked:,} was asked for, {limit:,} is used")
    return int(limit)


def _unused_special(tokenizer: Any) -> str | None:
    candidates = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "<|endoftext|>", "<unk>")
    vocabulary = tokenizer.get_vocab()
    return next((text for text in candidates if text in vocabulary and text != tokenizer.eos_token), None)


def _quantisation(four: bool, eight: bool, compute: torch.dtype) -> Any:
    if not four and not eight:
        return None
    bits = "4-bit" if four else "8-bit"
    if runtime.device().type != "cuda":
        notice(f"{bits} weights need an NVIDIA GPU; going on with {str(compute).removeprefix('torch.')} weights")
        return None
    if not runtime.installed("bitsandbytes"):
        notice(f"{bits} weights need bitsandbytes (pip install 'whet[cuda]'); going on without")
        return None
    from transformers import BitsAndBytesConfig

    if eight and not four:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _with_adapter(model: Any, folder: Path, trainable: bool) -> Any:
    from peft import PeftModel

    try:
        _resize_for(model, folder)
        with quiet_peft():
            wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} does not load: {_first_line(error)}", "a PEFT adapter") from error
    save_offline(wrapped)
    return wrapped


def _resize_for(model: Any, folder: Path) -> None:
    """Give the embedding as many rows as the adapter saved: tokens were added or taken away in training."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return
    with safe_open(file, framework="pt") as weights:
        name = next((key for key in weights.keys() if key.endswith("embed_tokens.weight")), None)  # noqa: SIM118
        rows = weights.get_slice(name).get_shape()[0] if name is not None else None
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _from_pretrained(kind: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        local = Path(name).is_dir()
        if local:
            raise ModelError(f"{name} does not load: {_first_line(error)}", "a complete checkpoint folder") from error
        raise ModelError(
            f"no folder {name} here, and the hub did not give it: {_first_line(error)}",
            EXPECTED,
            "check the name; a private or gated model needs a login or token",
        ) from error


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bar for a load that takes a tenth of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def config_of(name: str, **hub: Any) -> Any:
    """The transformers config of the base model that ``name`` means; no weights are read."""
    return _from_pretrained(AutoConfig, locate(name).base, hub)


def tokenizer_of(name: str, **hub: Any) -> Any:
    """The tokenizer of the model that ``name`` means, as ``load_model`` gives it; no weights are read."""
    return load_tokenizer(locate(name).tokenizer, hub)
