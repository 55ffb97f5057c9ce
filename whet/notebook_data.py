"""The notebook's functions on data: chat templates for rows and tokenizers, and training on answers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from whet.config.nearest import refuse_arguments
from whet.console import notice, warn
from whet.data.tables import as_dataset, column_names, column_values
from whet.data.turns import MESSAGE_COLUMNS, role_names, standard_messages, with_column
from whet.errors import DataError, ModelError, WhetError
from whet.export.modelfile import modelfile
from whet.text.chat import STOPS_KEY, bundled_chat_template, chat_template_of
from whet.text.encode import Encoded
from whet.text.jinja import own_bos
from whet.text.literal import specials_of
from whet.text.mapped import accept_mapped
from whet.text.template import TurnTemplate, from_jinja
from whet.text.template_string import first_special, has_fields, parse_template
from whet.train.responses import by_markers, by_structure
from whet.train.sft_rows import SftRows

PREAMBLE = (
    "Below are some instructions that describe some tasks. Write responses that appropriately complete each request."
)
DEFAULT_TEMPLATE = PREAMBLE + "\n\n### Instruction:\n{INPUT}\n\n### Response:\n{OUTPUT}"
MODELFILE_GGUF = "model.q8_0.gguf"  # the file that tokenizer._ollama_modelfile speaks of before an export names one


def apply_chat_template(
    dataset: Any,
    tokenizer: Any = None,
    chat_template: str = DEFAULT_TEMPLATE,
    default_system_message: str | None = None,
    extra_eos_tokens: Sequence[str] | None = None,
    **unknown: Any,
) -> datasets.Dataset:
    """Write conversations as text in a chat template, and give the tokenizer that template.

    Args:
        dataset: rows with a column ``conversations`` or ``messages``, in ShareGPT or OpenAI form.
        tokenizer: leaves with ``chat_template`` and ``_ollama_modelfile`` set to this template.
        chat_template: a template string with {INPUT} and {OUTPUT} (``whet.text.template_string``), the name of a
            bundled template, or Jinja.
        default_system_message: the system message of conversations without one. None: for a template string with
            {SYSTEM} a plain sentence (``PREAMBLE``), for others what the template itself says.
        extra_eos_tokens: more texts that end an answer; they are kept with the tokenizer.

    Returns:
        The rows with one more column, ``text``.

    Raises:
        DataError: a template that cannot be read (with a caret at the fault), or rows that it cannot write.
        ModelError: no tokenizer, or one without an end token.
    """
    refuse_arguments(unknown, apply_chat_template)
    names = column_names(dataset)
    column = next((name for name in MESSAGE_COLUMNS if name in names), None)
    if column is None:
        raise DataError(
            f"no column holds conversations: {', '.join(names)}", "one of " + ", ".join(MESSAGE_COLUMNS),
            "use to_sharegpt first",
        )  # fmt: skip
    conversations = list(_conversations(column_values(dataset, column)))
    extra = list(extra_eos_tokens or ())
    jinja, pieces = _read_template(tokenizer, chat_template, default_system_message, extra)
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        texts = [_written(tokenizer, pieces, row, f"row {i}") for i, row in enumerate(conversations, 1)]
        result = with_column(as_dataset(dataset), "text", texts)
    except WhetError:
        tokenizer.chat_template = before
        raise
    _keep_stops(tokenizer, extra)
    describe_template(tokenizer)
    return result


def get_chat_template(
    tokenizer: Any,
    chat_template: str | tuple[str, str] = "chatml",
    mapping: Mapping[str, str] | None = None,
    map_eos_token: bool = True,
    system_message: str | None = None,
    **unknown: Any,
) -> Any:
    """Give the tokenizer another chat template, and return it.

    Args:
        chat_template: the name of a bundled template, a template string, Jinja, or a pair of Jinja and its stop text.
        mapping: other names in the rows: ``{"role": "from", "content": "value", "user": "human", "assistant": "gpt"}``.
            The template then reads messages of both forms.
        map_eos_token: the token that ends a turn becomes the end token. Where the vocabulary has no such token, the
            tokenizer's own end token is written in its place.
        system_message: the system message of conversations without one.

    Raises:
        DataError: an unknown name, a template that cannot be read, or no place for the system message.
        ModelError: no tokenizer, or one without an end token.
    """
    refuse_arguments(unknown, get_chat_template)
    stops: list[str] = []
    if isinstance(chat_template, tuple | list):
        chat_template, stop = chat_template
        stops = [stop] if isinstance(stop, str) else []
    jinja, _ = _read_template(tokenizer, chat_template, system_message, stops, map_eos_token)
    tokenizer.chat_template = accept_mapped(jinja, mapping or {})
    _keep_stops(tokenizer, stops)
    describe_template(tokenizer)
    return tokenizer


def train_on_responses_only(
    trainer: Any, instruction_part: str | None = None, response_part: str | None = None, **unknown: Any
) -> Any:
    """Train the assistant's answers only, not the questions: mask the rows of a trainer again.

    Without markers, conversations are masked by their structure, and texts are taken apart with the chat template that
    they are in. With markers, what follows each ``response_part`` is trained, with its terminator, up to the next
    ``instruction_part``.

    Args:
        trainer: whet's ``SFTTrainer``.
        instruction_part: the text before each question, such as "### Instruction:\\n".
        response_part: the text before each answer.

    Returns:
        The same trainer with other ``train_dataset`` and ``eval_dataset``.

    Raises:
        DataError: no row shows an answer; the message says what the rows look like.
        WhetError: one marker without the other, or another trainer.
    """
    from whet.train.sft_trainer import SFTTrainer  # torch is needed here only

    refuse_arguments(unknown, train_on_responses_only)
    if not isinstance(trainer, SFTTrainer):
        raise WhetError(f"the trainer is a {type(trainer).__name__}", "whet's SFTTrainer")
    if (instruction_part is None) != (response_part is None):
        raise WhetError("one of instruction_part and response_part is missing", "both, or neither")

    def encode(rows: SftRows) -> Iterator[Encoded]:
        if instruction_part is None or response_part is None:
            found = by_structure(trainer.text_tokenizer, rows)
        else:
            found = by_markers(trainer.text_tokenizer, rows, instruction_part, response_part)
        for what, count in found.missing.items():
            notice(f"train_on_responses_only: {count:,} of {len(rows.records):,} rows {what}")
        return found.encoded

    trainer.remake(encode)
    return trainer


def describe_template(tokenizer: Any, num_ctx: int | None = None) -> None:
    """Set ``tokenizer._ollama_modelfile`` from the tokenizer's own chat template; None without one.

    It is made from what ``save_pretrained`` keeps, so a saved tokenizer that is loaded again has the same.
    """
    template = chat_template_of(tokenizer)
    tokenizer._ollama_modelfile = template and modelfile(
        MODELFILE_GGUF, template.pieces, num_ctx=num_ctx, stops=template.stops, no_template=template.no_go
    )


def _keep_stops(tokenizer: Any, stops: Sequence[str]) -> None:
    """Keep them where ``save_pretrained`` writes them; an earlier template's go."""
    tokenizer.init_kwargs.pop(STOPS_KEY, None)
    if stops:
        tokenizer.init_kwargs[STOPS_KEY] = list(dict.fromkeys(stops))


# --- templates ---


def _read_template(
    tokenizer: Any, given: str, system: str | None, stops: Sequence[str], ends: bool = True
) -> tuple[str, TurnTemplate | None]:
    """The template as Jinja, and as pieces where it is made of such.

    Args:
        ends: a bundled template ends its answers with the tokenizer's end token, or that token is changed.
    """
    if tokenizer is None:
        raise ModelError("no tokenizer was given", fix="pass tokenizer=tokenizer")
    if not isinstance(given, str) or not given.strip():
        raise DataError(f"chat_template={given!r}", "a template string, the name of a template, or Jinja")
    if has_fields(given) or (not _is_jinja(given) and ("{" in given or "\n" in given)):
        pieces = _from_string(tokenizer, given, system, stops)
        return pieces.jinja(), pieces
    if _is_jinja(given):
        jinja, template = given, _from_jinja(tokenizer, given)
    else:
        found = bundled_chat_template(given, tokenizer)
        template = _with_known_end(tokenizer, found.pieces) if ends and found.pieces else found.pieces
        jinja = template.jinja() if template else found.jinja
    if system is None:
        return jinja, template
    if template is None or template.system is None:
        raise _no_place(given)
    template = replace(template, default_system=system)
    return template.jinja(), template


def _from_string(tokenizer: Any, text: str, system: str | None, stops: Sequence[str]) -> TurnTemplate:
    if not tokenizer.eos_token:
        raise ModelError("the tokenizer has no end token (eos_token)", "one, so that answers end")
    template = parse_template(
        text,
        eos=tokenizer.eos_token,
        special=specials_of(tokenizer).texts,
        default_system=PREAMBLE if system is None else system,
        extra_stops=stops,
        bos=own_bos(tokenizer),
    )
    if template.system is None and system is not None:
        warn("default_system_message is not used: the template has no {SYSTEM}")
    return template


def _is_jinja(text: str) -> bool:
    return "{%" in text or "{{" in text


def _from_jinja(tokenizer: Any, jinja: str) -> TurnTemplate | None:
    """Pieces of a Jinja text; the tokenizer stays as it is."""
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
        return from_jinja(tokenizer)
    except TemplateSyntaxError as error:
        raise DataError(f"chat_template, line {error.lineno}: {error.message}", "Jinja") from error
    except (TemplateError, TypeError, ValueError, KeyError):  # it refuses this conversation; others may do
        return None
    finally:
        tokenizer.chat_template = before


def _no_place(given: str) -> DataError:
    return DataError(
        f"the template {given.splitlines()[0][:60]!r} has no place for a default system message",
        "a template with one, such as chatml",
        "put a system message in each row instead",
    )


def _with_known_end(tokenizer: Any, template: TurnTemplate) -> TurnTemplate:
    """The template, ending its turns with the tokenizer's end token; the tokenizer's is changed where it can be."""
    stop = first_special(template.assistant.after, template.stops)
    if stop is None or stop == tokenizer.eos_token:
        return template
    if stop in tokenizer.get_vocab():
        tokenizer.eos_token = stop
        notice(f"the end token is now {stop}, which ends a turn in this template")
        return template
    if not tokenizer.eos_token:
        raise ModelError(f"the vocabulary has no token {stop}, and the tokenizer no end token", "one of them")
    notice(f"the vocabulary has no token {stop}: the tokenizer's {tokenizer.eos_token} ends an answer in its place")
    after = template.assistant.after.replace(stop, tokenizer.eos_token, 1)
    return replace(template, assistant=replace(template.assistant, after=after), stop=tokenizer.eos_token)


# --- rows ---


def _conversations(rows: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
    roles = role_names((), ("user", "human", "input"), ("assistant", "gpt", "output"))
    for number, messages in enumerate(rows, 1):
        found = standard_messages(messages, roles, f"row {number}")
        yield [{key: value for key, value in message.items() if value is not None} for message in found]


def _written(tokenizer: Any, pieces: TurnTemplate | None, messages: list[dict[str, Any]], where: str) -> str:
    """One conversation as text."""
    try:
        if pieces is not None and pieces.fits(messages):
            return pieces.render(messages)
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except DataError as error:
        raise DataError(f"{where}: {error.given}", error.expected, error.fix) from error
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        hint = "add {SYSTEM} to the template" if "system" in roles else ""
        raise DataError(f"{where}: the chat template refuses the messages ({roles}): {error}", fix=hint) from error
