"""Full fine-tuning: the optimizer of weights that are trained themselves."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from transformers import Trainer

from whet.console import notice
from whet.train.fallback import NEED_BITSANDBYTES, NEED_TORCHAO
from whet.train.masters import MasterOptimizer
from whet.train.optim import FUSED, NAMES, name_of

# Optimizers that treat each element alone, or in blocks: masters come to them in stretches.
ELEMENTWISE = {*NAMES, *NEED_BITSANDBYTES, *NEED_TORCHAO, "sgd", "adagrad", "rmsprop"}


def engine_problem(model: torch.nn.Module, args: Any) -> str:
    """Why the engine cannot train this model's weights themselves; "" if it can.

    The engine makes its products in the dtype of the weights.

    Args:
        args: transformers' ``TrainingArguments``.
    """
    dtype = next(model.parameters()).dtype
    products = torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else dtype
    if args.fp16:
        return "training in float16 scales the loss, which the engine does not"
    if dtype != products:
        held, wanted = (str(each).removeprefix("torch.") for each in (dtype, products))
        return (
            f"weights are {held} and training is in {wanted}; load them as {wanted}: float32 masters keep small updates"
        )
    name = name_of(args)
    if dtype == torch.bfloat16 and name not in ELEMENTWISE:
        return f"the optimizer {name} works on whole matrices, and weights become float32 for it"
    if args.fsdp or args.deepspeed:
        return "FSDP or DeepSpeed holds the weights"
    return ""


def full_optimizer(
    model: torch.nn.Module, args: Any, decayed: Collection[str], processes: int = 1
) -> MasterOptimizer | None:
    """The optimizer of a run that trains bfloat16 weights: the one asked for, over float32 masters.

    An optimizer that looks at whole matrices gets float32 weights instead: ``model`` is converted, its frozen weights
    too where there is no autocast, unless adapters alone are trained.

    Args:
        model: to be trained; what has no gradient is left alone.
        args: transformers' ``TrainingArguments``.
        decayed: names of parameters with weight decay (``Trainer.get_decay_parameter_names``).
        processes: of the run; several leave the sum of micro-batches to what reduces their gradients.

    Returns:
        None where nothing in bfloat16 is trained, or others (DeepSpeed, FSDP, a loss scaler) keep masters of their own:
        transformers makes the optimizer then.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    narrow = [p for p in trained.values() if p.dtype == torch.bfloat16]
    count = sum(p.numel() for p in trained.values())
    if not narrow or args.fp16 or args.fsdp or args.deepspeed:
        if all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters()):
            notice(f"training {count:,} parameters in float32")
        return None
    name = name_of(args)
    plain = all(type(p.data) is torch.Tensor and p.dtype in (torch.bfloat16, torch.float32) for p in trained.values())
    if name not in ELEMENTWISE or not plain or not all(p.is_contiguous() for p in trained.values()):
        notice(f"training {count:,} parameters in float32: {name} cannot work on masters of bfloat16 weights")
        own = not args.bf16 and any(".lora_" not in key for key, p in trained.items() if p.dtype == torch.bfloat16)
        for parameter in [p for p in model.parameters() if p.dtype == torch.bfloat16] if own else narrow:
            parameter.data = parameter.data.float()
        return None
    notice(f"training {count:,} parameters in bfloat16 with float32 masters ({name})")
    groups = [
        {"params": [p for name, p in trained.items() if name in decayed], "weight_decay": args.weight_decay},
        {"params": [p for name, p in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if name in NAMES:
        settings["fused"] = all(p.device.type in FUSED for p in trained.values())
    several = args.gradient_accumulation_steps > 1 and processes == 1
    optimizer = MasterOptimizer(groups, partial(kind, **settings), sum_gradients=several)
    if name in NEED_BITSANDBYTES and settings.get("optim_bits") == 8:
        _keep_embeddings_exact(model, optimizer)
    return optimizer


def _keep_embeddings_exact(model: torch.nn.Module, optimizer: MasterOptimizer) -> None:
    """Moments of embeddings stay in 32 bits, as transformers has it for bitsandbytes' 8-bit optimizers."""
    from bitsandbytes.optim import GlobalOptimManager

    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    leaves = [piece.leaf for weight in weights for piece in optimizer.pieces.get(weight, [])]
    manager = GlobalOptimManager.get_instance()
    manager.override_config(leaves, "optim_bits", 32)
    manager.register_parameters(optimizer.inner.param_groups)
