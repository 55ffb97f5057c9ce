"""The keys of one entry of ``datasets:`` and of a user-defined ``type:``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from whet.config.nearest import did_you_mean
from whet.config.types import Bool, Float, Names, Text, wrong

_STYLES = ("argilla", "argilla_chat", "icr", "intel", "prompt_pairs", "ultra")
DATASET_TYPES = (
    "alpaca",
    "alpaca:chat",
    "sharegpt",
    "chat_template",
    "prompt_completion",
    "completion",
    "pretrain",
    "preference",
    "kto",
    "chat_template.default",
    "chat_template.argilla",
    "chat_template.argilla_chat",
    "bradley_terry.chat_template",
    *(f"{prefix}.{style}" for prefix in ("chatml", "llama3", "kto") for style in _STYLES),
)
COMMON_TYPES = DATASET_TYPES[
    : DATASET_TYPES.index("kto") + 1
]  # listed in messages and tables; the others are Axolotl's
MESSAGE_PROPERTIES = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "train", "weight")
ROLE_TARGETS = ("system", "user", "assistant", "tool")


class DatasetType(BaseModel):
    """A format of your own: which columns hold what, and how the prompt is written.

    The prompt is ``system_format`` (where there is a system text) followed by ``format``; the answer follows it
    directly and is not part of the format.
    """

    model_config = ConfigDict(extra="forbid")

    field_instruction: Text = Field("instruction", description="column with the question or task")
    field_input: Text | None = Field(None, description="column with further context; unset: none")
    field_output: Text = Field("output", description="column with the answer")
    field_system: Text | None = Field(None, description="column with the system text; unset: system_prompt")
    format: Text = Field("{instruction}\n{input}\n", description="the prompt, with {instruction} and {input}")
    no_input_format: Text | None = Field(
        None, description="the prompt of rows whose input is empty; unset: format with an empty input"
    )
    merged_prompt: Text | None = Field(
        None,
        description="instead of format: a prompt out of any columns, with {column} and optional [[parts]]; "
        "the row becomes a conversation in the chat template",
    )
    system_prompt: str = Field("", description="the same system text for every row")
    system_format: Text = Field("{system}", description="how the system text is written, with {system}")

    @model_validator(mode="after")
    def _one_prompt(self) -> DatasetType:
        others = self.model_fields_set & {"format", "no_input_format", "field_instruction", "field_input"}
        if self.merged_prompt is not None and others:
            raise wrong(f"merged_prompt alone names the columns: leave out {', '.join(sorted(others))}")
        return self


class DatasetConfig(BaseModel):
    """One source of examples."""

    model_config = ConfigDict(extra="forbid")

    path: Text = Field(description="a file (also compressed), a folder, a glob or a name on the hub")
    name: Text | None = Field(
        None, description="sheet of a workbook, or configuration of a hub data set; unset: the first one"
    )
    split: Text = Field("train", description="which rows, such as train, train[:5000] or train[10%:20%]")
    type: (
        Annotated[
            Annotated[Text, Tag("<name>")] | Annotated[DatasetType, Tag("<mapping>")],
            Discriminator(lambda value: "<mapping>" if isinstance(value, dict | DatasetType) else "<name>"),
        ]
        | None
    ) = Field(
        None,
        description=f"{', '.join(COMMON_TYPES)}, a name of Axolotl's for pairs (chat_template.default, chatml.intel, "
        "kto.ultra, ...) or a mapping of your own; unset: found from the columns",
    )
    weight: Float = Field(
        1.0, gt=0, description="how often each row is seen in an epoch: 2 twice, 0.5 half of the rows"
    )

    # reading
    data_files: Names | None = Field(
        None, description="files to read, where path names a folder, a hub name or a format"
    )
    ds_type: Text | None = Field(
        None, description="json, jsonl, csv, tsv, excel, parquet, arrow or text; unset: found from the suffix"
    )
    revision: Text | None = Field(None, description="commit, tag or branch on the hub; unset: the newest")
    streaming: Bool = Field(False, description="read a hub data set over the network, row by row, without a copy here")
    damaged: Literal["error", "skip"] = Field(
        "error", description="damaged lines: stop with the line's number, or skip and count them"
    )
    encoding: Text | None = Field(None, description="encoding of text files, such as utf-8 or cp1252; unset: detected")
    delimiter: Text | None = Field(
        None, description="character between the cells of a CSV; tab: a tab; unset: detected"
    )
    sample_by: Literal["line", "paragraph", "document"] | None = Field(
        None, description="what one row of a plain text file is; unset: line"
    )

    # columns
    field: Text | None = Field(None, description="completion, pretrain: the column with the text; unset: text")
    field_messages: Text | None = Field(
        None, description="column with the conversation or the prompt; unset: messages, conversations, conversation"
    )
    field_tools: Text | None = Field(None, description="column with the tools of a conversation; unset: tools")
    field_chosen: Text | None = Field(None, description="preference pairs: the better answer; unset: chosen")
    field_rejected: Text | None = Field(None, description="preference pairs: the worse answer; unset: rejected")
    field_label: Text | None = Field(None, description="kto: whether the completion is good; unset: label")

    # messages
    message_property_mappings: dict[str, str] | None = Field(
        None,
        description=f"names inside a message, {{{MESSAGE_PROPERTIES[0]}: from, {MESSAGE_PROPERTIES[1]}: value}}; "
        f"also {', '.join(MESSAGE_PROPERTIES[2:])}; unset: found from the rows",
    )
    message_field_role: Text | None = Field(None, description="older name of message_property_mappings.role")
    message_field_content: Text | None = Field(None, description="older name of message_property_mappings.content")
    field_thinking: Text | None = Field(
        None, description="name inside a message of the thinking; unset: reasoning_content, thinking or reasoning"
    )
    message_field_training: Text | None = Field(
        None, description="name inside a message of the flag that says whether it is trained; unset: train or training"
    )
    roles: dict[str, list[str]] | None = Field(
        None,
        description="names of roles in the rows, {assistant: [narrator], ...}, added to the usual ones "
        "(human, gpt, bot, model, observation, function_call, ...)",
    )
    roles_to_train: list[str] | None = Field(None, description="roles whose messages are trained; unset: [assistant]")
    drop_system_message: Bool = Field(False, description="leave system messages out")

    @field_validator("type")
    @classmethod
    def _type_is_known(cls, value: Any) -> Any:
        if value == "input_output":
            raise wrong("a supported type: input_output is not supported yet; give columns prompt and completion")
        if isinstance(value, str) and value not in DATASET_TYPES:
            raise wrong(f"{', '.join(COMMON_TYPES)} or a mapping; {did_you_mean(value, DATASET_TYPES)}")
        return value

    @field_validator("message_property_mappings")
    @classmethod
    def _properties_are_known(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        _refuse_unknown(value or {}, MESSAGE_PROPERTIES)
        return value

    @field_validator("roles")
    @classmethod
    def _roles_are_known(cls, value: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        _refuse_unknown(value or {}, ROLE_TARGETS)
        return value

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_one_character(cls, value: str | None) -> str | None:
        value = "\t" if value in ("tab", "\\t") else value
        if value is not None and len(value) != 1:
            raise wrong("one character, or tab")
        return value

    def format_fields(self) -> dict[str, Any]:
        """The flat arguments of ``whet.data.formats.FormatSpec``."""
        mappings = dict(self.message_property_mappings or {})
        role, content = mappings.pop("role", None), mappings.pop("content", None)
        names = "field field_messages field_tools field_chosen field_rejected field_label field_thinking "
        names += "message_field_training roles roles_to_train drop_system_message"
        fields: dict[str, Any] = {name: getattr(self, name) for name in names.split()}
        fields["field_role"] = role or self.message_field_role
        fields["field_content"] = content or self.message_field_content
        fields["properties"] = mappings or None
        if isinstance(self.type, DatasetType):
            return {**fields, "kind": "mapping", **self.type.model_dump()}
        return {**fields, "kind": self.type}

    def source_fields(self) -> dict[str, Any]:
        """The flat arguments of ``whet.data.stream.open_rows`` beside the path."""
        names = [
            "name",
            "split",
            "revision",
            "data_files",
            "damaged",
            "streaming",
            "encoding",
            "delimiter",
            "sample_by",
        ]
        return {"file_type": self.ds_type} | {name: getattr(self, name) for name in names}


def _refuse_unknown(given: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise wrong(f"{', '.join(known)}, and not {unknown}; {did_you_mean(unknown, known)}")
