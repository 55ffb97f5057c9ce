"""Every key of a run, with its type, its only default, its unit and its sentinel. The names are Axolotl's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from whet.config.chat_templates import CHAT_TEMPLATES as BUNDLED_TEMPLATES
from whet.config.chat_templates import SPELLINGS
from whet.config.dataset_keys import DatasetConfig
from whet.config.names import OPTIMIZERS, SCHEDULERS
from whet.config.nearest import did_you_mean
from whet.config.sizes import Size
from whet.config.types import Bool, BoolOrAuto, Checkpointing, Float, Int, Names, Text, wrong

STARTER = "starter"  # the model that ships inside whet; wins over a folder of that name
CHAT_TEMPLATES = ("tokenizer_default", *BUNDLED_TEMPLATES, "jinja")


class _Dumper(yaml.SafeDumper):
    """PyYAML's own, but texts with rare line breaks stand in double quotes: in its other styles they get lost."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    rare = any(mark in text for mark in "\r\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if rare else None)


_Dumper.add_representer(str, _text)


class Remark(NamedTuple):
    """Something the user should hear about the config; ``whet.console.say(*remark)`` says it."""

    level: Literal["note", "warning"]
    text: str
    key: str


class SpecialTokens(BaseModel):
    """Special tokens of the tokenizer, each given as its text; unset: the tokenizer's own."""

    model_config = ConfigDict(extra="forbid")

    bos_token: Text | None = Field(None, description="text of the token that begins a document")
    eos_token: Text | None = Field(None, description="text of the token that ends a document")
    pad_token: Text | None = Field(None, description="text of the token that fills rows")
    unk_token: Text | None = Field(None, description="text of the token for unknown text")


class RunConfig(BaseModel):
    """One supervised fine-tuning run. None means unset."""

    model_config = ConfigDict(extra="forbid", validate_default=False)

    # model
    base_model: Text = Field(description='a folder, a name on the hub, or "starter", the model inside whet')
    revision_of_model: Text | None = Field(None, description="commit, tag or branch on the hub; unset: the newest")
    special_tokens: SpecialTokens | None = Field(None, description="special tokens; unset: the tokenizer's own")
    chat_template: str = Field(
        "tokenizer_default",
        description=f"one of {', '.join(CHAT_TEMPLATES)}",
        json_schema_extra={"enum": [*CHAT_TEMPLATES, *(name for name in SPELLINGS if name not in CHAT_TEMPLATES)]},
    )
    chat_template_jinja: Text | None = Field(None, description="the Jinja template, or a file with it")
    load_in_4bit: Bool = Field(False, description="hold the frozen weights in 4 bits (adapter: qlora sets it)")
    stream_weights: Bool = Field(
        False,
        description="frozen 16-bit weights of the layers stay in main memory and come to the GPU layer by layer "
        "(adapter: lora)",
    )

    # adapter
    adapter: Literal["lora", "qlora"] | None = Field(None, description="lora or qlora; unset: full fine-tuning")
    lora_r: Int = Field(16, ge=1, description="rank of the adapter matrices")
    lora_alpha: Int = Field(16, ge=1, description="the adapter is scaled by lora_alpha / lora_r")
    lora_dropout: Float = Field(0.0, ge=0, lt=1, description="share of adapter inputs set to zero in training")
    lora_target_modules: Names | None = Field(
        None, description="names or one regex of layers; unset: all linear layers"
    )
    lora_target_linear: Bool | None = Field(None, description="true: all linear layers, as when unset")
    lora_modules_to_save: list[str] | None = Field(None, description="layers trained in full beside the adapter")
    peft_use_rslora: Bool = Field(False, description="scale by lora_alpha / sqrt(lora_r) instead")

    # data
    datasets: list[DatasetConfig] = Field(min_length=1, description="sources of examples")
    test_datasets: list[DatasetConfig] | None = Field(None, min_length=1, description="sources of validation examples")
    val_set_size: Float = Field(0, ge=0, description="rows kept for validation: below 1 a share, else a count; 0: none")
    train_on: Literal["assistant", "last", "all"] | None = Field(
        None,
        description="what is trained: assistant (every answer), last (the last answer of a chat) or all; "
        "unset: as train_on_inputs says",
    )
    train_on_inputs: Bool = Field(False, description="true: the prompt is trained too, the same as train_on: all")
    dataset_prepared_path: Text | None = Field(
        None, description="folder for prepared copies of the data; unset: the user's cache, for large sources only"
    )
    sequence_len: Int = Field(2048, ge=8, description="longest row, in tokens")
    excess_length_strategy: Literal["drop", "truncate", "split", "error"] | None = Field(
        None,
        description="what happens to longer rows (they are counted and reported): truncate cuts after the last whole "
        "answer that fits, split makes several rows of a text that is trained as a whole; unset: drop, and split where "
        "all data sets have type: completion or pretrain",
    )
    sample_packing: Bool = Field(True, description="put several examples into one row of sequence_len tokens")

    # preferences: the keys below are read where rl is set
    rl: Literal["dpo", "ipo", "kto", "orpo", "simpo"] | None = Field(
        None, description="train on preferences, by this method; unset: supervised fine-tuning"
    )
    rl_beta: Float | None = Field(
        None, gt=0, description="beta of the method (docs/preference.md); unset: 0.1, of simpo 2.0"
    )
    dpo_loss_type: Literal["sigmoid", "hinge", "robust", "sigmoid_norm"] | None = Field(
        None, description="loss of rl: dpo; unset: sigmoid"
    )
    dpo_label_smoothing: Float | None = Field(
        None, ge=0, lt=0.5, description="share of pairs that may stand the wrong way round; unset: 0"
    )
    dpo_norm_loss: Bool = Field(False, description="true: dpo of log-ratios averaged over each answer's tokens")
    rpo_alpha: Float | None = Field(
        None, ge=0, description="dpo, ipo: weight of the chosen answer's mean negative log-likelihood; unset: 0"
    )
    orpo_alpha: Float | None = Field(None, gt=0, description="older name of orpo's rl_beta")
    simpo_gamma: Float | None = Field(None, ge=0, description="simpo: margin of the rewards; unset: 0.5")
    cpo_alpha: Float | None = Field(
        None, ge=0, description="simpo: weight of the chosen answer's mean negative log-likelihood; unset: 0"
    )
    kto_desirable_weight: Float | None = Field(None, ge=0, description="kto: weight of good answers; unset: 1")
    kto_undesirable_weight: Float | None = Field(None, ge=0, description="kto: weight of bad answers; unset: 1")
    precompute_ref_log_probs: Bool = Field(
        False,
        description="true: the reference is computed once, before training, also where there are adapters",
    )
    reward_model: Bool = Field(False, description="train a model that scores answers, from pairs; without rl")
    center_rewards_coefficient: Float | None = Field(
        None, ge=0, description="reward_model: weight that holds the scores around 0, such as 0.01; unset: 0"
    )

    # steps
    micro_batch_size: Int = Field(2, ge=1, description="rows in one forward pass")
    eval_batch_size: Int | None = Field(None, ge=1, description="rows in one validation pass; unset: micro_batch_size")
    gradient_accumulation_steps: Int = Field(4, ge=1, description="forward passes in one optimizer step")
    num_epochs: Float = Field(1, gt=0, description="passes over the data")
    max_steps: Int | None = Field(None, ge=1, description="optimizer steps; set: wins over num_epochs")
    learning_rate: Float = Field(2e-4, gt=0, description="step size of the optimizer at its highest")
    lr_scheduler: str = Field(
        "cosine",
        description="course of the learning rate, a name of transformers",
        json_schema_extra={"enum": [*SCHEDULERS]},
    )
    lr_scheduler_kwargs: dict[str, Any] | None = Field(None, description="arguments of the scheduler")
    warmup_steps: Int | None = Field(None, ge=0, description="steps of rising rate; unset: 3% of all, at most 100")
    warmup_ratio: Float | None = Field(None, ge=0, lt=1, description="share of steps with rising rate")
    optimizer: str = Field(
        "adamw_torch", description="a name of transformers", json_schema_extra={"enum": [*OPTIMIZERS]}
    )
    weight_decay: Float = Field(0.0, ge=0, description="decoupled weight decay per step, times the learning rate")
    adam_beta1: Float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    adam_beta2: Float = Field(0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    adam_epsilon: Float = Field(1e-8, gt=0, description="added to the divisor")
    max_grad_norm: Float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: never")
    bf16: BoolOrAuto = Field("auto", description="bfloat16 arithmetic; auto: where the device has it")
    fp16: Bool = Field(False, description="float16 arithmetic (GPU only)")
    gradient_checkpointing: Checkpointing = Field(
        "auto",
        description="compute activations again to save memory: auto as little of that as fits into memory, unsloth in "
        "the way that takes least memory, true everywhere, false nowhere",
    )
    max_memory: Size | None = Field(
        None, description="GPU memory that training may take, such as 16GiB; unset: what is free"
    )
    seed: Int = Field(3407, ge=0, description="seed of shuffling, adapters and dropout")

    # output
    output_dir: Text = Field("./whet-out", description="the run folder")
    logging_steps: Int = Field(1, ge=1, description="optimizer steps between two log lines")
    saves_per_epoch: Int | None = Field(None, ge=0, description="checkpoints in an epoch; 0: none before the end")
    save_steps: Float | None = Field(None, gt=0, description="steps between checkpoints; below 1: a share of all steps")
    save_strategy: Literal["no", "epoch", "steps"] | None = Field(None, description="unset: epoch, or as the two above")
    save_total_limit: Int = Field(4, ge=1, description="newest checkpoints kept")
    evals_per_epoch: Int | None = Field(None, ge=0, description="validations in an epoch")
    eval_steps: Float | None = Field(None, gt=0, description="steps between validations; below 1: a share of all steps")
    eval_strategy: Literal["no", "epoch", "steps"] | None = Field(None, description="unset: epoch, or as the two above")

    # trackers: off unless named
    use_wandb: Bool | None = Field(None, description="Weights & Biases; unset: on when wandb_project is set")
    wandb_project: Text | None = Field(None, description="project; setting it turns the tracker on")
    wandb_entity: Text | None = Field(None, description="team")
    wandb_name: Text | None = Field(None, description="name of the run")
    wandb_run_id: Text | None = Field(None, description="id of the run")
    wandb_mode: Literal["online", "offline", "disabled"] | None = Field(None, description="unset: online")
    wandb_watch: Text | None = Field(None, description="gradients, parameters, all or false")
    wandb_log_model: Text | None = Field(None, description="checkpoint, end or false")
    use_mlflow: Bool | None = Field(None, description="MLflow; unset: on when one of its keys is set")
    mlflow_tracking_uri: Text | None = Field(None, description="address of the server, or a folder")
    mlflow_experiment_name: Text | None = Field(None, description="name of the experiment")
    mlflow_run_name: Text | None = Field(None, description="name of the run")
    hf_mlflow_log_artifacts: Bool | None = Field(None, description="upload checkpoints too")
    use_tensorboard: Bool = Field(False, description="TensorBoard files in the run folder")
    use_trackio: Bool | None = Field(None, description="trackio; unset: on when trackio_project_name is set")
    trackio_project_name: Text | None = Field(None, description="project; setting it turns the tracker on")
    trackio_run_name: Text | None = Field(None, description="name of the run")
    trackio_space_id: Text | None = Field(None, description="space on the hub that shows the run")

    _source: Path | None = PrivateAttr(None)
    _remarks: list[Remark] = PrivateAttr(default_factory=list)

    @field_validator("chat_template")
    @classmethod
    def _template_is_known(cls, value: str) -> str:
        if value not in CHAT_TEMPLATES and value not in SPELLINGS:
            names = f"one of {', '.join(CHAT_TEMPLATES)}"
            raise wrong(f"{names}; {did_you_mean(value, [*CHAT_TEMPLATES, *SPELLINGS])}")
        return value

    @field_validator("optimizer", "lr_scheduler")
    @classmethod
    def _name_is_known(cls, value: str, info: Any) -> str:
        names = OPTIMIZERS if info.field_name == "optimizer" else SCHEDULERS
        if value not in names:
            raise wrong(f"one of {', '.join(names)}; {did_you_mean(value, names)}")
        return value

    @field_validator("dpo_loss_type", mode="before")
    @classmethod
    def _one_loss(cls, value: Any) -> Any:
        """Axolotl takes a list of losses; one is understood."""
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @field_validator("excess_length_strategy", mode="before")
    @classmethod
    def _raise_means_error(cls, value: Any) -> Any:
        return "error" if value == "raise" else value

    @field_validator("wandb_watch", "wandb_log_model", "save_strategy", "eval_strategy", mode="before")
    @classmethod
    def _false_is_a_word_here(cls, value: Any, info: Any) -> Any:
        """YAML reads ``no`` as false; for these keys it is a word."""
        if value is False and info.field_name.endswith("strategy"):
            return "no"
        return str(value).lower() if isinstance(value, bool) else value

    @property
    def source(self) -> Path | None:
        """The file this config came from; None when it came from text."""
        return self._source

    @property
    def remarks(self) -> list[Remark]:
        """What loading noticed: keys without effect, settings that are probably not meant."""
        return list(self._remarks)

    @property
    def report_to(self) -> list[str]:
        """The trackers to use, by transformers' names; none unless named."""
        wandb = bool(self.wandb_project) and self.use_wandb is not False and self.wandb_mode != "disabled"
        mlflow = self.use_mlflow
        if mlflow is None:
            mlflow = bool(self.mlflow_tracking_uri or self.mlflow_experiment_name)
        trackio = bool(self.trackio_project_name) if self.use_trackio is None else self.use_trackio
        named = {"wandb": wandb, "mlflow": mlflow, "tensorboard": self.use_tensorboard, "trackio": trackio}
        return [name for name, wanted in named.items() if wanted]

    @property
    def trained_part(self) -> Literal["assistant", "last", "all"]:
        """What is trained, by the two keys that say it."""
        return self.train_on or ("all" if self.train_on_inputs else "assistant")

    @property
    def raw_text(self) -> bool:
        """Whether all rows are documents, for continued pretraining."""
        return all(entry.type in ("completion", "pretrain") for entry in self.datasets)

    @property
    def long_rows(self) -> Literal["drop", "truncate", "split", "error"]:
        """What happens to rows longer than ``sequence_len``."""
        return self.excess_length_strategy or ("split" if self.raw_text else "drop")

    @property
    def lora_targets(self) -> list[str] | str:
        """``target_modules`` for PEFT."""
        return self.lora_target_modules or "all-linear"

    def resolve_path(self, value: str) -> Path:
        """``value`` from the working directory, else from the YAML's folder; as it is where neither exists."""
        given = Path(os.path.expanduser(value))
        if not given.is_absolute() and not given.exists() and self._source is not None:
            beside = self._source.parent / given
            if beside.exists():
                return beside
        return given

    def chat_template_text(self) -> str | None:
        """The Jinja text of ``chat_template_jinja``, read from its file where it names one."""
        text = self.chat_template_jinja
        if text is None or "{" in text:
            return text
        path = self.resolve_path(text)
        return path.read_text(encoding="utf-8") if path.is_file() else text

    def to_yaml(self, *, absolute: bool = False) -> str:
        """Every key that has a value, defaults included; ``load_config`` reads the same config back.

        Args:
            absolute: write the paths that exist here in full, so that the copy works from any folder.
        """
        data = self.model_dump(exclude_none=True)
        if absolute:
            for place in [data, *data["datasets"], *data.get("test_datasets", [])]:
                key = "base_model" if place is data else "path"
                path = self.resolve_path(place[key])
                if path.exists() and place[key] != STARTER:
                    place[key] = os.path.abspath(path)
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
