"""The notebook API: the names and arguments that readers of the published tutorials know.

Methods are bound on the instances that are returned; no class or module of another library is changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from whet import runtime
from whet.config.nearest import refuse_arguments
from whet.console import notice, warn
from whet.errors import ModelError, OutputError, ProofFailed, Unproved, WhetError
from whet.evaluate import model_generate
from whet.export.folder import Exported, write_exports
from whet.export.live import LiveSource
from whet.export.merged import write_merged
from whet.export.verify import verify_gguf
from whet.models.adapters import ALL_LINEAR, add_lora
from whet.models.load import context_length, load_model
from whet.models.parts import exact_on_cpu
from whet.models.recompute import recompute
from whet.notebook_data import describe_template
from whet.notebook_push import bind_push, push_to_hub, push_to_hub_gguf, push_to_hub_merged, push_tokenizer
from whet.text.chat import chat_template_of
from whet.train import sft_trainer
from whet.train.engine import ASKED, head_start
from whet.train.fallback import weights_asked
from whet.train.sft_trainer import SFTConfig
from whet.train.streaming import ASKED as STREAM_ASKED
from whet.train.streaming import keep_in_main_memory, streams_here


class FastLanguageModel:
    """Load, adapt, switch between training and inference."""

    @staticmethod
    def from_pretrained(
        model_name: str = "starter",
        max_seq_length: int = 2048,
        dtype: torch.dtype | None = None,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        load_in_16bit: bool = False,
        full_finetuning: bool = False,
        token: str | None = None,
        device_map: Any = None,
        rope_scaling: dict[str, Any] | None = None,
        trust_remote_code: bool = False,
        use_gradient_checkpointing: bool | str = "auto",
        revision: str | None = None,
        random_state: int = 3407,
        stream_weights: bool = False,
        **unknown: Any,
    ) -> tuple[Any, Any]:
        """Load a model and its tokenizer.

        Args:
            model_name: a hub name, a checkpoint folder, an adapter folder (base and adapter are loaded) or "starter".
            max_seq_length: tokens; longer than the model can is clamped and said.
            dtype: None chooses for the device: bfloat16 where it is fast, else float16 on a GPU, float32 on a CPU.
            load_in_4bit: NF4 where the device can; elsewhere the library says so and goes on.
            full_finetuning: train all weights: in bfloat16 with float32 masters where it is fast, else in float32.
            stream_weights: the layers' 16-bit weights stay in main memory (docs/train.md); load_in_4bit does not count.

        Raises:
            ModelError: no such model.
            WhetError: an argument of an unknown name.
        """
        refuse_arguments(unknown, FastLanguageModel.from_pretrained)
        _refuse(rope_scaling, stream_weights and (full_finetuning or load_in_8bit or device_map is not None))
        runtime.seed_everything(random_state)
        four = load_in_4bit and not (load_in_16bit or load_in_8bit or full_finetuning or stream_weights)
        streamed = streams_here(stream_weights)
        hub: dict[str, Any] = {"token": token, "revision": revision, "trust_remote_code": trust_remote_code}
        if not (full_finetuning or load_in_8bit):
            head_start(model_name, dtype, four_bit=four, **hub)
        model, tokenizer = load_model(
            model_name,
            dtype=_trained_dtype(dtype) if full_finetuning else dtype,
            load_in_4bit=four,
            load_in_8bit=load_in_8bit and not full_finetuning,
            device_map=device_map,
            **hub,
            trainable_adapter=True,
            training=True,
            on_cpu=streamed,
        )
        _stream(model, streamed)
        model.max_seq_length = context_length(model.config, max_seq_length)
        if full_finetuning:
            model.requires_grad_(True)
        _checkpointing(model, use_gradient_checkpointing)
        _bind(model)
        tokenizer.push_to_hub = MethodType(push_tokenizer, tokenizer)
        describe_template(tokenizer, model.max_seq_length)
        return model, tokenizer

    @staticmethod
    def get_peft_model(
        model: Any,
        r: int = 16,
        target_modules: Sequence[str] | str = ALL_LINEAR,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        layers_to_transform: Sequence[int] | int | None = None,
        use_gradient_checkpointing: bool | str = "auto",
        random_state: int = 3407,
        use_rslora: bool = False,
        use_dora: bool = False,
        modules_to_save: Sequence[str] | None = None,
        init_lora_weights: bool | str = True,
        loftq_config: dict[str, Any] | None = None,
        max_seq_length: int | None = None,
        **unknown: Any,
    ) -> Any:
        """Freeze the model and put LoRA matrices on its linear layers.

        Raises:
            ModelError: an adapter is there already, or no layer has these names.
        """
        refuse_arguments(unknown, FastLanguageModel.get_peft_model)
        if loftq_config:
            raise ModelError("loftq_config is not supported", "None", "use init_lora_weights")
        wrapped = add_lora(
            model,
            rank=r,
            alpha=lora_alpha,
            dropout=lora_dropout,
            target_modules=target_modules,
            bias=bias,
            layers_to_transform=layers_to_transform,
            modules_to_save=modules_to_save,
            use_rslora=use_rslora,
            use_dora=use_dora,
            init_lora_weights=init_lora_weights,
            seed=random_state,
        )
        if getattr(model, STREAM_ASKED, False):
            keep_in_main_memory(wrapped, runtime.device())
        wrapped.max_seq_length = max_seq_length or getattr(model, "max_seq_length", None)
        _checkpointing(wrapped, use_gradient_checkpointing)
        _bind(wrapped)
        return wrapped

    @staticmethod
    def for_inference(model: Any) -> Any:
        """Switch to generation: dropout off, cache on, and ``model.generate`` by whet's decoder (docs/generate.md)."""
        model.eval()
        if any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
            model.gradient_checkpointing_disable()
        model.config.use_cache = True
        model_generate.bind(model)
        return model

    @staticmethod
    def for_training(model: Any, use_gradient_checkpointing: bool | str = "auto") -> Any:
        """Switch back to training; ``model.generate`` is transformers' again."""
        model_generate.unbind(model)
        model.train()
        _checkpointing(model, use_gradient_checkpointing)
        return model


class SFTTrainer(sft_trainer.SFTTrainer):
    """Supervised fine-tuning; see ``whet.train.sft_trainer.SFTTrainer`` for the arguments.

    The tokenizer leaves with the template that the rows are really written in, and with its Modelfile.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        describe_template(self.text_tokenizer, getattr(self.model, "max_seq_length", None))


def is_bfloat16_supported() -> bool:
    """Whether the GPU computes in bfloat16; False on a CPU."""
    return runtime.bf16_supported()


def save_pretrained_gguf(
    model: Any,
    save_directory: str | Path,
    tokenizer: Any,
    quantization_method: str | Sequence[str] = "q8_0",
    *,
    system: str | None = None,
    proof: bool = True,
) -> list[Exported]:
    """Write GGUF files and their Modelfiles into ``save_directory``, and compare each with this model.

    Args:
        quantization_method: one name or several, such as "q4_k_m" or ["f16", "q8_0"].
        system: a system message for the Modelfile.
        proof: compare in llama.cpp; where it is not installed, the files are written and that is said.

    Raises:
        ProofFailed: a file is not the trained model.
        ExportError: an architecture or template that cannot be written.
    """
    quants = [quantization_method] if isinstance(quantization_method, str) else list(quantization_method)
    template = chat_template_of(tokenizer)
    if template is None:
        warn("no chat template is exported: the rows used none, or none was found; prompts are continued as they are")
    context = getattr(model, "max_seq_length", None)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        written = write_exports(
            LiveSource(model, Path(scratch)),
            scratch,
            save_directory,
            quants,
            name=Path(save_directory).resolve().name,
            template=template.pieces if template is not None else None,
            chat_template=template.jinja if template is not None else "",
            stops=template.stops if template is not None else (),
            no_template=template.no_go if template is not None else "",
            system=system,
            num_ctx=context,
        )
    tokenizer._ollama_modelfile = written[0].modelfile.read_text(encoding="utf-8")
    if proof:
        _prove(model, tokenizer, written)
    return written


def _prove(model: Any, tokenizer: Any, written: Sequence[Exported]) -> None:
    training = model.training
    model.eval()
    try:
        for item in written:
            with exact_on_cpu(model):
                verdict = verify_gguf(item.gguf, model, tokenizer)
            notice(
                f"{item.gguf.name}: tokens {'identical' if verdict.tokens_identical else 'DIFFERENT'}, mean KL "
                f"{verdict.kl_mean:.1e}, top-1 {verdict.top1_agreement:.0%} over {verdict.positions} positions",
            )
            if not verdict.passed:
                raise ProofFailed(f"{item.gguf} is not the trained model", fix="do not use it; see its .verify.json")
    except Unproved as reason:
        warn(str(reason))
    finally:
        model.train(training)


def save_pretrained_merged(
    model: Any,
    save_directory: str | Path,
    tokenizer: Any = None,
    save_method: str = "merged_16bit",
) -> None:
    """Write the model with its adapter merged (16-bit safetensors), or the adapter alone (``save_method="lora"``)."""
    folder = Path(save_directory)
    if folder.is_file():
        raise OutputError(f"{folder} is a file", "a folder")
    if save_method == "lora":
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return
    if save_method not in ("merged_16bit", "merged"):
        raise WhetError(f"save_method {save_method!r}", "merged_16bit or lora (merged_4bit is not supported yet)")
    with tempfile.TemporaryDirectory() as scratch:
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        source = LiveSource(model, Path(scratch))
        write_merged(source, folder, tokenizer_dir=Path(scratch) if tokenizer is not None else None)


def _bind(model: Any) -> None:
    """Give this instance the saving methods that readers expect."""
    model.save_pretrained_gguf = MethodType(save_pretrained_gguf, model)
    model.save_pretrained_merged = MethodType(save_pretrained_merged, model)
    bind_push(model)


def _refuse(rope_scaling: Any, streamed_and_more: bool) -> None:
    if rope_scaling:
        raise ModelError("rope_scaling is not supported yet", "None", "use a model with a longer context")
    if streamed_and_more:
        raise WhetError("stream_weights with full_finetuning, load_in_8bit or device_map", "stream_weights alone")


def _stream(model: Any, streamed: bool) -> None:
    """Its weights stay in main memory: at once with an adapter, else as soon as ``get_peft_model`` has added one."""
    if streamed and isinstance(getattr(model, "peft_config", None), dict):
        keep_in_main_memory(model, runtime.device())
    elif streamed:
        setattr(model, STREAM_ASKED, True)


def _trained_dtype(asked: torch.dtype | None) -> torch.dtype | None:
    """Of weights that are trained themselves: float16 could not be."""
    return torch.float32 if asked == torch.float16 else asked or weights_asked("auto", frozen=False)


def _checkpointing(model: Any, asked: bool | str) -> None:
    """Note for training what was asked, and where it was asked for, let the model's own forward recompute as well."""
    if asked not in (True, False, "auto", "unsloth"):
        raise WhetError(f"use_gradient_checkpointing {asked!r}", 'True, False, "auto" or "unsloth"')
    setattr(model, ASKED, asked)
    if asked is True or (asked == "unsloth" and runtime.device().type == "cuda"):
        recompute(model)


__all__ = [
    "FastLanguageModel",
    "SFTConfig",
    "SFTTrainer",
    "describe_template",
    "is_bfloat16_supported",
    "push_to_hub",
    "push_to_hub_gguf",
    "push_to_hub_merged",
    "save_pretrained_gguf",
    "save_pretrained_merged",
]
