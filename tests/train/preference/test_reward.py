"""Reward models: the loss, the step beside transformers' own scores, and what is saved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import metrics_of, without_engine
from tests_pairs import pair
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

import whet
from whet import api
from whet.config import parse_config
from whet.data.answer_rows import AnswerRows
from whet.data.prepare import prepare
from whet.errors import ConfigError, ModelError, WhetError
from whet.models.adapters import add_lora
from whet.models.load import load_model
from whet.models.scores import TASK, widen_head
from whet.text.encode import Encoded
from whet.train.preference.reward import CollateRewards, Reward, RewardDataset, RewardObjective
from whet.train.trainer import WhetTrainer

PAD = 3
MINIMAL = "base_model: starter\ndatasets:\n  - path: rows.jsonl\n"


def test_loss_is_the_formula() -> None:
    chosen, rejected = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = Reward(0.2)(chosen, rejected)
    for i in range(5):
        c, r = chosen[i].item(), rejected[i].item()
        assert found.loss_P[i].item() == pytest.approx(math.log1p(math.exp(r - c)) + 0.2 * (c + r) ** 2, rel=1e-10)
        assert found.figures["rewards/accuracies"][i].item() == float(c > r)
    assert torch.autograd.gradcheck(lambda c, r: Reward(0.2)(c, r).loss_P, (chosen, rejected))


def scorer(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(5)
    model, _ = load_model(str(folder), dtype=dtype, scores=True)
    kind, _, own = kind.partition(" ")
    if kind == "full":
        return without_engine(model) if own else model
    return add_lora(model, rank=4, init_lora_weights=False, dropout=1e-9 if own else 0.0, task=TASK)


def trainer_of(model: Any, rows: AnswerRows, folder: Path, micro: int, flat: bool, **changes: Any) -> WhetTrainer:
    keys = {"max_steps": 1, "max_grad_norm": 0, "learning_rate": 1e-9, "save_strategy": "no", "logging_steps": 1}
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=micro, gradient_accumulation_steps=-(-len(rows) // micro),
        report_to="none", dataloader_pin_memory=False, **{**keys, **changes},
    )  # fmt: skip
    widen_head(model)
    return WhetTrainer(
        model=model, args=arguments, train_dataset=RewardDataset(rows, PAD), collate=CollateRewards(PAD, flat=flat),
        tokenizer=None, objective=RewardObjective(Reward(0.1)),
    )  # fmt: skip


def plain_loss(model: Any, rows: AnswerRows) -> torch.Tensor:
    """transformers' own scores, text by text."""
    scores = [model(input_ids=torch.tensor(rows.prepared.row(n)[0])[None].long()).logits[0, 0] for n in range(16)]
    chosen, rejected = torch.stack(scores[0::2]), torch.stack(scores[1::2])
    return (-torch.nn.functional.logsigmoid(chosen - rejected) + 0.1 * (chosen + rejected) ** 2).mean()


@pytest.mark.parametrize(
    ("kind", "micro", "flat"),
    [
        *((kind, micro, True) for kind in ("lora", "full") for micro in (8, 3)),
        *((kind, 3, False) for kind in ("lora own", "full own")),
    ],
)
def test_a_step_is_transformers_scores(
    kind: str, micro: int, flat: bool, tiny_llama_dir: Path, pairs: AnswerRows, tmp_path: Path
) -> None:
    model = scorer(tiny_llama_dir, kind)
    plain = plain_loss(model, pairs)
    plain.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    trainer = trainer_of(model, pairs, tmp_path, micro, flat)
    assert (trainer.engine is None) == kind.endswith("own")
    found: dict[str, torch.Tensor] = {}
    step = trainer.create_optimizer().register_step_pre_hook  # gradients of the whole step
    step(lambda *_: found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["loss"] == pytest.approx(plain.item(), rel=1e-5)
    assert any("score" in name for name in expected) and found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 2e-4 * gradient.norm().clamp_min(1e-6), name


def test_the_scored_token_is_the_last_without_padding(tiny_llama_dir: Path) -> None:
    """Also where a text ends with the pad token, and beside longer texts."""

    texts = [[9, 8, 7], [5, 6, PAD], [11, PAD, 12, 13, 14], [4, 5]]
    rows = AnswerRows(prepare((Encoded(ids, ((1, len(ids)),)) for ids in texts), 64), 2)
    dataset = RewardDataset(rows, PAD)
    for flat in (False, True):
        batch = CollateRewards(PAD, flat=flat)([dataset[0], dataset[1]])
        assert batch["input_ids"].flatten()[batch["ends"]].tolist() == [7, 6, 14, 5]
    model = scorer(tiny_llama_dir, "full")
    padded = torch.tensor([text + [PAD] * (5 - len(text)) for text in texts])
    with torch.no_grad():
        together, alone = model(input_ids=padded).logits, [model(input_ids=torch.tensor([t])).logits[0] for t in texts]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)  # transformers passes over the padding too


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "pairs.jsonl"
    lines = [{"input": r.prompt[0]["content"], "chosen": r.chosen[0]["content"], "rejected": r.rejected[0]["content"]}
             for r in map(pair, range(24))]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("adapter", ["lora", None])
def test_a_run_learns_and_transformers_loads_it(
    adapter: str | None, pairs_file: Path, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    run = api.train(
        write_config(
            tmp_path, reward_model=True, num_labels=1, model_type="AutoModelForSequenceClassification", adapter=adapter,
            datasets=[{"path": str(pairs_file), "type": "bradley_terry.chat_template"}], val_set_size=6,
            micro_batch_size=6, max_steps=12, learning_rate=3e-3, center_rewards_coefficient=0.01,
        )
    )  # fmt: skip
    held = [line for line in metrics_of(run) if "eval_loss" in line]
    assert held[0]["step"] == 0
    assert held[-1]["eval_rewards/accuracies"] == 1 and held[-1]["eval_rewards/margins"] > 0.5
    model, tokenizer = _loaded(run, adapter)
    asked = [{"role": "user", "content": "After one?"}]
    scores = []
    for answer in ("two", "well well well"):
        text = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], tokenize=False)
        with torch.no_grad():
            scores.append(model(**tokenizer(text, return_tensors="pt")).logits[0, 0].item())
    assert scores[0] > scores[1] + 0.5
    with pytest.raises(ModelError, match="is a reward model"):
        load_model(str(run))
    with pytest.raises(ModelError, match="is a reward model"):
        api.export(run)


def _loaded(run: Path, adapter: str | None) -> tuple[Any, Any]:
    """With transformers and PEFT alone."""
    folder = run / ("adapter" if adapter else "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if adapter is None:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.num_labels == 1 and model.config.pad_token_id == tokenizer.pad_token_id
        return model.eval(), tokenizer
    from peft import PeftModel

    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    base_model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    return PeftModel.from_pretrained(base_model, folder).eval(), tokenizer


def test_bfloat16_keeps_a_float32_head(tiny_llama_dir: Path, pairs: AnswerRows, tmp_path: Path) -> None:
    model = scorer(tiny_llama_dir, "lora", torch.bfloat16)
    trainer = trainer_of(model, pairs, tmp_path, 8, True)
    trainer.train()
    head = model.base_model.model.score.modules_to_save["default"].weight
    assert head.dtype == torch.float32
    assert torch.isfinite(model(input_ids=torch.tensor([[4, 5, 6]])).logits).all()  # the model's own forward still runs


@pytest.mark.parametrize("kind", ["full", "full own"])
def test_bfloat16_weights_that_are_trained(
    kind: str, tiny_llama_dir: Path, pairs: AnswerRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masters of the weights, the head in float32 its own; what is saved scores as the model does."""
    model = scorer(tiny_llama_dir, kind, torch.bfloat16)
    before = model.score.weight.detach().clone()
    trainer = trainer_of(model, pairs, tmp_path, 3, kind == "full", learning_rate=1e-4, max_steps=4)
    assert (trainer.engine is None) == (kind == "full own")
    trainer.train()
    assert trainer.masters is not None and "in bfloat16 with float32 masters" in capsys.readouterr().err
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    assert model.score.weight.dtype == torch.float32 and (model.score.weight != before).any()
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    ids = torch.tensor([[4, 5, 6]])
    assert loaded(input_ids=ids).logits.item() == pytest.approx(model(input_ids=ids).logits.item(), abs=0.05)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="reward_model: true and rl: dpo"):
        parse_config(MINIMAL + "reward_model: true\nrl: dpo")
    with pytest.raises(ConfigError, match="one score"):
        parse_config(MINIMAL + "reward_model: true\nnum_labels: 2")
    said = [remark.text for remark in parse_config(MINIMAL + "center_rewards_coefficient: 0.1").remarks]
    assert any("without reward_model" in text for text in said)


@pytest.mark.parametrize("named", [True, False])
def test_the_notebooks_trainer(named: bool, tiny_llama_dir: Path, tokenizer: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in map(pair, range(8))]
    args = whet.RewardConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, max_steps=8, learning_rate=3e-3, save_strategy="no",
        report_to="none", center_rewards_coefficient=0.01, max_length=128,
    )  # fmt: skip
    torch.manual_seed(5)
    model = str(tiny_llama_dir) if named else scorer(tiny_llama_dir, "full")
    trainer = whet.RewardTrainer(
        model=model, args=args, train_dataset=rows, eval_dataset=rows, peft_config=LoraConfig(r=4) if named else None,
        processing_class=None if named else tokenizer,
    )  # fmt: skip
    trainer.train()
    assert trainer.evaluate()["eval_rewards/accuracies"] == 1
    assert hasattr(trainer.model, "peft_config") == named


def test_the_notebooks_trainer_refuses(tiny_llama_dir: Path, tokenizer: Any, tmp_path: Path) -> None:
    writer, _ = load_model(str(tiny_llama_dir))
    with pytest.raises(ModelError, match="one score"):
        whet.RewardTrainer(writer, train_dataset=[], processing_class=tokenizer)
    with pytest.raises(WhetError, match="max_length"):
        whet.RewardConfig(output_dir=str(tmp_path), max_lenght=5)
    with pytest.raises(WhetError, match="no tokenizer"):
        whet.RewardTrainer(writer, train_dataset=[])
