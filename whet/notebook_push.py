"""``push_to_hub`` and its kin, as methods on the models that the notebook API returns."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

from whet.config.nearest import refuse_arguments
from whet.errors import WhetError
from whet.export.card_facts import CardFacts, local_base, method_of, prompt_of, public_name, tags_of
from whet.export.hub import check_repo, push_folder, usable_token
from whet.export.licence import licence_name
from whet.export.push import finish_and_push, gather_ggufs, push_stage

HERE = "."  # files to upload are gathered beside the notebook: a temporary disk is often too small


def push_to_hub(
    model: Any,
    repo_id: str,
    tokenizer: Any = None,
    *,
    token: str | None = None,
    private: bool = True,
    **unknown: Any,
) -> str:
    """Upload the adapter (of a full fine-tune: the model) with a card.

    Args:
        repo_id: ``owner/name``.
        token: None takes the hub's own login.
        private: whether a new repository is private; an existing public one is only written to with False.

    Returns:
        The repository's address.

    Raises:
        ExportError: offline, no token, no right to write, a connection that broke off.
    """
    refuse_arguments(unknown, push_to_hub)
    method = "lora" if _adapter(model) is not None else "merged_16bit"
    return push_to_hub_merged(model, repo_id, tokenizer, method, token=token, private=private)


def push_to_hub_merged(
    model: Any,
    repo_id: str,
    tokenizer: Any = None,
    save_method: str = "merged_16bit",
    *,
    token: str | None = None,
    private: bool = True,
    **unknown: Any,
) -> str:
    """Upload the model with its adapter merged, or the adapter alone (``save_method="lora"``).

    Raises:
        ExportError: as :func:`push_to_hub`.
        WhetError: a ``save_method`` that is not known.
    """
    refuse_arguments(unknown, push_to_hub_merged)
    check_repo(repo_id)
    token = usable_token(token)
    if save_method == "lora" and _adapter(model) is None:
        raise WhetError('save_method "lora", but the model has no adapter', "merged_16bit")
    with push_stage(HERE) as stage:
        model.save_pretrained_merged(stage, tokenizer, save_method=save_method)
        kind = "adapter" if save_method == "lora" else "merged"
        facts, base = _facts(model, tokenizer)
        return finish_and_push(stage, facts, repo_id, kind, base=base, private=private, token=token)


def push_to_hub_gguf(
    model: Any,
    repo_id: str,
    tokenizer: Any,
    quantization_method: str | Sequence[str] = "q8_0",
    *,
    token: str | None = None,
    private: bool = True,
    system: str | None = None,
    **unknown: Any,
) -> str:
    """Write GGUF files, compare each with this model, and upload them with their Modelfile.

    Raises:
        ProofFailed: a file is not the trained model; nothing is uploaded.
        ExportError: as :func:`push_to_hub`.
    """
    refuse_arguments(unknown, push_to_hub_gguf)
    check_repo(repo_id)
    token = usable_token(token)
    with push_stage(HERE) as written, push_stage(HERE) as stage:
        model.save_pretrained_gguf(written, tokenizer, quantization_method, system=system)
        ggufs = gather_ggufs(written, (), stage)
        facts, base = _facts(model, tokenizer)
        return finish_and_push(stage, facts, repo_id, "gguf", ggufs, base=base, private=private, token=token)


def push_tokenizer(
    tokenizer: Any, repo_id: str, *, token: str | None = None, private: bool = True, **unknown: Any
) -> str:
    """Upload a tokenizer's files beside a model's; arguments and errors as :func:`push_to_hub`."""
    refuse_arguments(unknown, push_tokenizer, "push_to_hub")
    check_repo(repo_id)
    token = usable_token(token)
    with push_stage(HERE) as stage:
        tokenizer.save_pretrained(stage)
        return push_folder(stage, repo_id, private=private, token=token, message="Upload tokenizer by whet")


def bind_push(model: Any) -> None:
    """Give this model the methods that readers of the tutorials expect."""
    for method in (push_to_hub, push_to_hub_merged, push_to_hub_gguf):
        setattr(model, method.__name__, MethodType(method, model))


def _adapter(model: Any) -> Any:
    """The settings of the model's adapter; None without one."""
    known = getattr(model, "peft_config", None)
    return next(iter(known.values())) if known else None


def _facts(model: Any, tokenizer: Any) -> tuple[CardFacts, str | None]:
    """What a model in memory says of itself, and its base as it was loaded."""
    adapter = _adapter(model)
    settings = None if adapter is None else adapter.to_dict()
    named = (settings or {}).get("base_model_name_or_path") or getattr(model.config, "_name_or_path", None) or None
    name, on_hub = (None, False) if named is None else public_name(named)
    folder = None if named is None else local_base(named)
    length = getattr(model, "max_seq_length", None)
    facts = CardFacts(
        base=name,
        on_hub=on_hub,
        licence=None if folder is None else licence_name(folder),
        method="" if settings is None else method_of(settings, {}),
        tags=tags_of(settings, {}),
        training={} if length is None else {"longest row, tokens": str(length)},
        **prompt_of(tokenizer),
    )
    return facts, named
