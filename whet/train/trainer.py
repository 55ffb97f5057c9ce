"""transformers' Trainer with exact token accounting: a step's loss is its sum over trained tokens / their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerControl, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from whet.console import MetricsLog, as_output_error, notice
from whet.data.loader import PaddedDataset
from whet.data.sampler import SeededSampler
from whet.engine.forward import Engine
from whet.engine.loss import IGNORE, labelled_loss
from whet.engine.transfer import to_device
from whet.errors import TrainingError
from whet.models.parts import Halves, halves
from whet.train.arguments import trainer_arguments
from whet.train.attachment import Attachment
from whet.train.batches import count_merged
from whet.train.callbacks import RecordMetrics, ShowProgress, StopOnInterrupt, TokenMeter
from whet.train.checkpoint import remove_incomplete
from whet.train.engine import goal_of
from whet.train.finite import FiniteLosses
from whet.train.flat import FlatAdapters
from whet.train.forward import Batch, Forward, Objective, Way
from whet.train.full import full_optimizer
from whet.train.full_plan import moment_bytes
from whet.train.joined import joined
from whet.train.masters import MasterOptimizer
from whet.train.memory import Memory, out_of_memory, trained_bytes
from whet.train.memory_plan import FASTEST, Planner, Wish, memory_budget, memory_limit, probe_peak
from whet.train.optim import adapter_optimizer, name_of
from whet.train.shared_attention import is_told, say_shared, sharing_prompts
from whet.train.shortage import again_with_less, hold_gradients, way_back
from whet.train.streaming import refuse_unstreamed, stays_in_main_memory


class WhetTrainer(Trainer):
    """A thin subclass: the loss, the validation loss, progress and metrics are whet's, the loop is transformers'.

    Batches hold ``input_ids``, ``labels`` (not shifted) and ``position_ids``, each [B, T], and never an attention mask
    (data/loader.py says why). Batch size and accumulation do not change the gradient of a step.

    Args:
        metrics: where log lines go; None: nowhere.
        interruptible: let Ctrl-C end the run with a checkpoint.
        wish: what was asked of memory.

    Attributes:
        memory: of the training that runs or has run.
    """

    control: TrainerControl

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train_dataset: Dataset[Any] | None,
        collate: Callable[[Any], Batch],
        tokenizer: Any,
        eval_dataset: Dataset[Any] | None = None,
        metrics: Path | None = None,
        callbacks: list[Any] | None = None,
        interruptible: bool = True,
        wish: Wish = FASTEST,
        objective: Objective | None = None,
    ) -> None:
        refuse_unstreamed(model, training=bool(train_dataset))
        args = trainer_arguments(args)
        self._finite = FiniteLosses() if args.logging_nan_inf_filter else None
        args.logging_nan_inf_filter = False  # it would wait for the device after every micro-batch
        self._known: tuple[Any, Any] | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,  # type: ignore[arg-type]
            eval_dataset=eval_dataset,  # type: ignore[arg-type]
            data_collator=collate,  # type: ignore[arg-type]
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = True  # the loss is divided by the step's tokens here, not by transformers
        self.loss_is_scaled_for_ga = True
        self.meter = TokenMeter()
        self.flat: FlatAdapters | None = None
        self.masters: MasterOptimizer | None = None
        self._resumed = self._modes_set = False
        self._operations: int | None = None  # of a token, as transformers counts them
        self._waiting: list[Batch] = []  # micro-batches of the step that will go through with the next ones
        self._to_come = 0
        self.wish, self.objective = wish, objective
        self.memory: Memory | None = None
        self.attachment = Attachment(lambda: self._own, self.args, self.accelerator.num_processes)
        if train_dataset:
            self.attachment.attach()
        if self.engine is None and self.halves is None:
            notice("this model changes its logits after the head: its own forward is used, with all logits")
        self.interrupt = StopOnInterrupt()
        self._show = ShowProgress(self.meter)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        for callback in [self._show, *([self.interrupt] if interruptible else [])]:
            self.add_callback(callback)
        if metrics is not None:
            self.add_callback(RecordMetrics(MetricsLog(metrics), self.meter))

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not stays_in_main_memory(model):  # transformers would not move it either, with a warning
            super()._move_model_to_device(model, device)

    @cached_property
    def halves(self) -> Halves | None:
        """Of the model, for its own forward; found by running it, so not where only the engine runs."""
        return halves(self._own)

    @property
    def _own(self) -> Any:
        """The user's model itself."""
        return self._unwrapped(self.model)

    def _unwrapped(self, model: Any) -> Any:
        """accelerate looks through all modules, which takes 2 ms where there are 3,000: asked once."""
        if self._known is None or self._known[0] is not model:
            self._known = model, self.accelerator.unwrap_model(model)
        return self._known[1]

    @property
    def engine(self) -> Engine | None:
        """None where the model's own forward runs."""
        return self.attachment.engine

    @property
    def forward(self) -> str:
        """ "engine", or why the model's own forward runs."""
        return self.attachment.forward

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededSampler:
        """Random order; single rows of like length stand in one batch, so that little is padded."""
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        lengths = dataset.prepared.lengths if isinstance(dataset, PaddedDataset) else None
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return SeededSampler(len(dataset), seed, lengths=lengths, batch_size=self.args.per_device_train_batch_size)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW over flat buffers where only adapters are trained, float32 masters where bfloat16 weights are; else
        transformers' own choice."""
        trainer: Any = self  # transformers sets optimizer outside of what types can see
        if trainer.optimizer is None and trainer.optimizer_cls_and_kwargs is None:
            trained = trainer.model if model is None else model
            decayed = self.get_decay_parameter_names(trained)
            adapters = adapter_optimizer(trained, self.args, decayed)
            self.flat = adapters.flat if adapters is not None else None
            if adapters is None:
                self.masters = full_optimizer(trained, self.args, decayed, self.accelerator.num_processes)
            trainer.optimizer = adapters or self.masters
        return super().create_optimizer(model) if trainer.optimizer is None else trainer.optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.masters is not None:
            return self.masters.clip_(self.args.max_grad_norm)
        if self.flat is None:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return self.flat.clip_(self.args.max_grad_norm)

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train; a failed write leaves no half checkpoint behind.

        Raises:
            OutputError: the disk is full or not writable.
            TrainingError: the loss is not a number.
        """
        self.meter.start()
        self.interrupt.install()
        self._resumed, self._modes_set, self._operations = bool(resume_from_checkpoint), False, None
        if self._finite is not None:
            self._finite.begin()
        self.attachment.renew()
        if self.masters is not None:
            self.masters.begin()
        try:
            with self._sharing(self.train_dataset, self.eval_dataset):
                self.memory = self._plan()
                self._merge_own()
                for dataset in (self.train_dataset, self.eval_dataset):
                    self._prepare_objective(dataset)
                with memory_limit(self.args.device, self.wish.max_memory):
                    output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            if self.masters is not None:
                self.masters.finish_(self.args.seed)
            return output
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error) from error
        except Exception as error:
            remove_incomplete(Path(str(self.args.output_dir)))
            output_error = as_output_error(error, str(self.args.output_dir))
            if output_error is None:
                raise
            raise output_error from error
        finally:
            self.attachment.give_back()
            if self.masters is not None:
                self.masters.rest()
            self.interrupt.remove()
            self._show.close()

    def _plan(self) -> Memory:
        """What layers keep. Made anew for each training: batch size and free memory may have changed."""
        own, args = self._own, self.args
        dataset: Any = self.train_dataset
        # in other shapes products round otherwise: a deterministic run does not depend on the memory that is free
        most = 1 if torch.are_deterministic_algorithms_enabled() else args.gradient_accumulation_steps
        batches = count_merged(
            dataset, args.per_device_train_batch_size, args.gradient_accumulation_steps, args.seed, most
        )
        goal = self.wish.goal or goal_of(own, args)
        budget = memory_budget(args.device, self.wish.max_memory)
        engine = self.engine
        planner = Planner(engine, batches, goal, budget, name_of(args)) if engine is not None else None
        return Memory(planner, own, batches, goal, budget)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch, or none yet where it goes through with the next ones. The first one tries the memory plan
        before.

        To transformers, which counts, saves and resumes by them, micro-batches stay what the user said.
        """
        memory = self.memory
        assert memory is not None
        if not memory.settled:  # of several processes, one whose probe fails would leave the others waiting
            probe = partial(self._probe, model) if self.accelerator.num_processes == 1 else None
            moment = moment_bytes(name_of(self.args))
            made = self.masters is not None and self.masters.make_state()  # now, or of a run that goes on
            memory.settle(probe, not_yet=self.flat is None and not made, moment=moment)
        layout = inputs["layout"]
        self.meter.add(layout.real, layout.labelled)
        self._waiting.append(inputs)
        self._to_come -= 1
        if self._to_come > 0 and len(self._waiting) < memory.at_once:
            return torch.zeros((), device=self.args.device)
        parts, self._waiting = self._waiting, []
        return self._forward_backward(model, parts, num_items_in_batch)

    def _forward_backward(self, model: Any, parts: list[Batch], count: Any) -> torch.Tensor:
        """The loss of micro-batches, as many at once as the plan says at each moment; at a shortage it says less."""
        assert self.memory is not None
        memory, losses = self.memory, []
        while parts:
            run = partial(self._run_first, model, parts, count)
            loss, done = again_with_less(run, memory.lower, self._way_back(model))
            losses.append(loss)
            parts = parts[done:]
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return total if self._finite is None else self._finite(total, self.state.global_step)

    def _run_first(self, model: Any, parts: list[Batch], count: Any) -> Any:
        """The loss of as many parts as go through at once now, and their number."""
        assert self.memory is not None
        first, sums = parts[: self.memory.at_once], self.masters.added if self.masters is not None else None
        if sums is not None:
            sums.begin(len(first))
        loss = self._pass(model, joined(first), count)
        if sums is not None:
            sums.done()
        return loss, len(first)

    def _pass(self, model: Any, inputs: Batch, count: Any) -> torch.Tensor:
        """transformers' step. It puts all modules into training mode, which takes 5 ms where there are 3,000: once is
        enough for the engine, which asks for no mode."""
        plain = model is self.model and self.engine is not None and self.flat is not None
        if not (plain and self._modes_set and model.training) or self.args.torch_empty_cache_steps is not None:
            self._modes_set = True
            return super().training_step(model, inputs, count)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=count)
        self.accelerator.backward(loss)
        return loss.detach()

    def floating_point_ops(self, inputs: Batch) -> int:
        """As transformers counts them; the parameters, which it would count for every micro-batch, once."""
        tokens = int(inputs["input_ids"].numel())
        if self._operations is None:
            self._operations = super().floating_point_ops(inputs) // max(tokens, 1)
        return self._operations * tokens

    def _way_back(self, model: Any) -> Callable[[], None] | None:
        """How to take back what a failed micro-batch has added to gradients and figures; None where that cannot be."""
        assert self.memory is not None
        times, processes = self.args.gradient_accumulation_steps // self.memory.at_once, self.accelerator.num_processes
        gradients = way_back(model, self.flat, self.masters, times, processes)
        if gradients is None or self.objective is None:
            return gradients
        figures = self.objective.training.way_back()

        def both() -> None:
            gradients()
            figures()

        return both

    def _probe(self, model: Any) -> None:
        """Forward and backward of the largest micro-batch; leaves nothing behind."""
        memory = self.memory
        assert memory is not None
        dataset: Any = self.train_dataset
        inputs = self._prepare_inputs(self.data_collator([dataset[item] for item in memory.batches.widest]))
        model.train()
        try:
            if self.flat is None and self.args.gradient_accumulation_steps > memory.at_once:
                hold_gradients(model, self.masters)
            self._without_reference(inputs)
            with self.compute_loss_context_manager():
                loss = self._loss_sum(model, inputs)
            loss.backward()
        finally:  # after a shortage, too
            if self.flat is not None:
                self.flat.zero()
            elif self.masters is not None:
                self.masters.zero_grad()
            else:
                model.zero_grad()
            if self.objective is not None:
                self.objective.training.take()  # the probe is no step

    def _without_reference(self, inputs: Batch) -> None:
        """A probe of full fine-tuning can come before the reference, which takes no memory of a GPU."""
        if self.objective is None or "reference" in inputs or hasattr(self._own, "disable_adapter"):
            return
        for part in (inputs, inputs.get("others")):
            if part is not None:
                part["reference"] = torch.zeros(len(part["rows"]), device=self.args.device)
        self.objective.begin_step(self._forward(self.model), [inputs])

    def _merge_own(self) -> None:
        """Before a reference is computed: how many micro-batches the model's own forward takes at once. Its attention
        has to know documents, or rows would have to be padded."""
        assert self.memory is not None
        alone = self.accelerator.num_processes == 1 and self.args.device.type == "cuda"
        if self.engine is not None or not alone or not is_told(self._own):
            return
        gradients, coming = trained_bytes(self._own, name_of(self.args))
        before = torch.cuda.memory_allocated(self.args.device) + gradients
        probe = partial(probe_peak, partial(self._probe, self.model), self.args.device)
        self.memory.merge(probe, before, coming)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of the micro-batch / trained tokens (or what else the objective counts) of the whole step."""
        if self.model.training and self.flat is not None:
            self.flat.attach()  # transformers sets gradients to None after each step
        total = self._loss_sum(model, inputs)
        count = self._count(inputs) if num_items_in_batch is None else num_items_in_batch
        count = count.clamp(min=1) if isinstance(count, torch.Tensor) else max(int(count), 1)
        loss = total / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # count is over all processes; their gradients are averaged
        return (loss, {}) if return_outputs else loss

    def _count(self, inputs: Batch) -> int:
        return int(inputs["layout"].labelled) if self.objective is None else self.objective.count(inputs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self.objective is None:
            return super()._get_num_items_in_batch(batch_samples, device)
        count = to_device(torch.tensor(sum(self._count(batch) for batch in batch_samples)), device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()  # type: ignore[union-attr]
        return count

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The micro-batches of a step; an objective may look at all of them before."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.objective is not None and batches:
            batches = [self._prepare_inputs(batch) for batch in batches]
            size = self.memory.at_once if self.memory is not None else 1
            groups = (batches[start : start + size] for start in range(0, len(batches), size))
            self.objective.begin_step(self._forward(self.model), (joined(group) for group in groups))
        self._waiting, self._to_come = [], len(batches)
        return batches, count

    def _forward(self, model: Any) -> Forward:
        engine = self.engine if model is self.model else None
        found = self.halves if model is self.model and engine is None else None
        own = self._unwrapped(model)
        return Forward(model, own, engine, found, self.accelerator.autocast, is_told(own))

    @contextmanager
    def _sharing(self, *datasets: Any) -> Iterator[None]:
        """Without an engine the model's own attention is told which documents share a prompt."""
        if self.engine is not None:
            say_shared(datasets[0])
            yield
            return
        with sharing_prompts(self._own, datasets, self.data_collator):
            yield

    def _prepare_objective(self, dataset: Any) -> None:
        if self.objective is None or dataset is None:
            return
        training = dataset is self.train_dataset
        size = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        size *= self.memory.at_once if training and self.memory is not None else 1
        order = self._get_train_sampler(dataset).order().tolist() if training else list(range(len(dataset)))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        name = "train" if training else "valid" if dataset is self.eval_dataset else None
        was_training = self.model.training
        self.model.eval()  # the reference has no dropout
        with self.compute_loss_context_manager():
            self.objective.prepare(self._forward(self.model), dataset, self._load, Way(groups, name, self._resumed))
        self.model.train(was_training)

    def _load(self, items: list[Any]) -> Batch:
        """A batch on the device, unless Ctrl-C was pressed."""
        if self.interrupt.interrupted:
            raise KeyboardInterrupt
        return self._prepare_inputs(self.data_collator(items))

    def _loss_sum(self, model: Any, inputs: Batch) -> torch.Tensor:
        """Sum of the cross-entropy over the labelled tokens of one micro-batch, or of the objective's losses."""
        if self.objective is not None:
            return self.objective.loss_sum(self._forward(model), inputs)
        labels_BT = inputs["labels"]
        if self.engine is not None and model is self.model:
            if not torch.is_grad_enabled():
                return self._validation_loss(inputs)
            lengths = inputs["layout"].lengths
            return self.engine.loss_sum(inputs["input_ids"], inputs["position_ids"], labels_BT, inputs["rows"], lengths)
        forward = {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"], "use_cache": False}
        if self.halves is not None and model is self.model:
            with self.accelerator.autocast():  # accelerate puts it around the whole model's forward only
                hidden_BTD = self.halves.backbone(**forward)[0]
                return labelled_loss(hidden_BTD, self.halves.head, labels_BT)
        logits_BTV = model(**forward).logits[:, :-1]
        return torch.nn.functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
        )

    def _validation_loss(self, inputs: Batch) -> torch.Tensor:
        """As many rows at once as in training: memory was planned for those."""
        assert self.engine is not None
        names = ("input_ids", "position_ids", "labels")
        pieces = zip(*(inputs[name].split(self.args.per_device_train_batch_size) for name in names), strict=True)
        return torch.stack([self.engine.loss_sum(*piece) for piece in pieces]).sum()

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss over all trained tokens (or examples) of the validation rows, not over batches."""
        model, total, count = self.model, 0.0, 0
        was_training = model.training
        model.eval()
        loader: Any = self.get_eval_dataloader(eval_dataset)
        with self.attachment.for_now(), self._sharing(loader.dataset):
            if self.objective is not None:
                self._prepare_objective(loader.dataset)
                loader = [self._prepare_inputs(inputs) for inputs in loader]
                self.objective.begin_step(self._forward(model), loader)
            for inputs in loader:
                inputs = self._prepare_inputs(inputs)
                with self.compute_loss_context_manager():
                    total += float(self._loss_sum(model, inputs))
                count += self._count(inputs)
        model.train(was_training)
        both = torch.tensor([total, float(count)], dtype=torch.float64, device=self.args.device)
        total, count = self.accelerator.reduce(both).tolist()  # type: ignore[union-attr]
        metrics = {f"{metric_key_prefix}_loss": total / max(count, 1)}
        if self.objective is None:
            metrics[f"{metric_key_prefix}_tokens"] = count
        else:
            metrics |= {f"{metric_key_prefix}_{name}": x for name, x in self.objective.validation.take().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Refuse to go on with a loss that is not a number."""
        if "loss" in logs and self._finite is not None:
            self._finite.begin()
        if self.objective is not None and "loss" in logs:
            logs |= self.objective.training.take()
        super().log(logs, start_time)
        loss = logs.get("loss", logs.get("train_loss"))  # the second one ends a run that logged no step
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the loss is not a number at step {self.state.global_step}",
                "a finite loss",
                "lower learning_rate, or train in bf16 or float32 instead of fp16",
            )
