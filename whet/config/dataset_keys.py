"""The keys of one entry of ``datasets:`` and of a user-defined ``type:``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from whet.config.nearest import did_you_mean
from whet.config.types import Bool, Names, Text, wrong

DATASET_TYPES = ("alpaca", "chat_template", "completion")


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
    system_prompt: str = Field("", description="the same system text for every row")
    system_format: Text = Field("{system}", description="how the system text is written, with {system}")


class DatasetConfig(BaseModel):
    """One source of examples."""

    model_config = ConfigDict(extra="forbid")

    path: Text = Field(description="a file, a folder or a name on the hub")
    name: Text | None = Field(None, description="name of the hub data set's configuration; unset: its default")
    split: Text = Field("train", description="which rows, such as train, train[:5000] or train[10%:20%]")
    type: (
        Annotated[
            Annotated[Text, Tag("<name>")] | Annotated[DatasetType, Tag("<mapping>")],
            Discriminator(lambda value: "<mapping>" if isinstance(value, dict | DatasetType) else "<name>"),
        ]
        | None
    ) = Field(None, description="alpaca, chat_template, completion or a mapping of your own; unset: found from columns")
    data_files: Names | None = Field(
        None, description="files to read, where path names a folder, a hub name or a format"
    )
    ds_type: Text | None = Field(None, description="json, jsonl, csv, tsv or parquet; unset: found from the suffix")
    revision: Text | None = Field(None, description="commit, tag or branch on the hub; unset: the newest")
    field: Text | None = Field(None, description="completion: the column with the text; unset: text")
    field_messages: Text | None = Field(
        None, description="chat_template: the column with the conversation; unset: messages, then conversations"
    )
    message_property_mappings: dict[str, str] | None = Field(
        None, description="chat_template: names inside a message, {role: ..., content: ...}; unset: found from the rows"
    )
    message_field_role: Text | None = Field(None, description="older name of message_property_mappings.role")
    message_field_content: Text | None = Field(None, description="older name of message_property_mappings.content")
    roles: dict[str, list[str]] | None = Field(
        None,
        description="chat_template: {assistant: [bot, model], ...}; unset: user/human, assistant/gpt, system, tool",
    )
    drop_system_message: Bool = Field(False, description="chat_template: leave system messages out")

    @field_validator("type")
    @classmethod
    def _type_is_known(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in DATASET_TYPES:
            names = ", ".join(DATASET_TYPES)
            raise wrong(f"{names} or a mapping (others are not supported yet); {did_you_mean(value, DATASET_TYPES)}")
        return value

    @field_validator("message_property_mappings")
    @classmethod
    def _only_role_and_content(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value and set(value) - {"role", "content"}:
            raise wrong("role and content (other properties are not supported yet)")
        return value

    def format_fields(self) -> dict[str, Any]:
        """The flat arguments of ``whet.data.formats.FormatSpec``."""
        mappings = self.message_property_mappings or {}
        fields: dict[str, Any] = {
            "field": self.field,
            "field_messages": self.field_messages,
            "field_role": mappings.get("role") or self.message_field_role,
            "field_content": mappings.get("content") or self.message_field_content,
            "roles": self.roles,
            "drop_system_message": self.drop_system_message,
        }
        if isinstance(self.type, DatasetType):
            return {**fields, "kind": "mapping", **self.type.model_dump()}
        return {**fields, "kind": self.type}
