"""Real comparisons of small runs: which rows are asked, who answers, what is kept and reused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from compared_run import rows, train

from whet import api
from whet.config import load_config
from whet.console import forget_notices
from whet.errors import DataError, ModelError
from whet.evaluate import answers as answers_module
from whet.evaluate.answers import Asked, Store
from whet.evaluate.contenders import contenders_of, fingerprint, loaded, one_load, tokenizer_of
from whet.evaluate.examples import prompt_ids
from whet.evaluate.generate import greedy_ids
from whet.evaluate.heldout import rows_of_run, spaced
from whet.evaluate.likelihood import answer_logprobs
from whet.models.load import load_model
from whet.text.encode import encode_pairs


@pytest.fixture(autouse=True)
def _notices_are_said_again() -> None:
    forget_notices()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    return train(tmp_path_factory.mktemp("compared"), tiny_llama_dir)


def _held_out(run: Path) -> list[str]:
    """The prompts that training really held out."""
    from whet.data.run_rows import prepare_rows

    config = load_config(run / "config.yml")
    _, tokenizer = load_model(str(run))
    valid = prepare_rows(config, tokenizer, config.sequence_len).valid
    assert valid is not None
    texts = [tokenizer.decode(valid.row(i)[0], skip_special_tokens=True) for i in range(len(valid))]
    return sorted(text.partition("\n")[0] + "\n" for text in texts)


def test_the_rows_are_those_that_the_run_held_out(run: Path, capsys: pytest.CaptureFixture[str]):
    contenders = contenders_of([str(run)])
    assert contenders.config is not None
    tokenizer = tokenizer_of(contenders.contenders[-1])
    questions = rows_of_run(run, contenders.config, tokenizer, 0)
    assert sorted(example.prompt for example in questions.examples) == _held_out(run)
    assert not questions.trained and len(questions.examples) == 6
    assert "data is not what" not in capsys.readouterr().err


def test_changed_data_is_noticed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    more = tmp_path / "rows.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in rows(31)))
    config = load_config(changed / "config.yml")
    config.datasets[0].path = str(more)
    rows_of_run(changed, config, tokenizer_of(contenders_of([str(run)]).contenders[-1]), 0)
    assert "the data is not what the run was trained on" in capsys.readouterr().err


def test_rows_that_were_trained_on_are_named_so(run: Path, capsys: pytest.CaptureFixture[str]):
    config = load_config(run / "config.yml").model_copy(update={"val_set_size": 0})
    questions = rows_of_run(run, config, tokenizer_of(contenders_of([str(run)]).contenders[-1]), 5)
    assert questions.trained and questions.total == 30 and len(questions.examples) == 5
    assert "TRAINED on" in capsys.readouterr().err


def test_a_file_that_was_trained_on_is_named_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = load_config(run / "config.yml").datasets[0].path
    report = api.compare(run, data=path, n=2, out=tmp_path, max_new_tokens=2)
    assert any("TRAINED on" in remark for remark in report.comparison.remarks)
    assert "TRAINED on" in capsys.readouterr().err


def test_one_load_gives_what_each_model_gives_alone(run: Path, tiny_llama_dir: Path):
    contenders = contenders_of([str(run)], checkpoints="2").contenders
    assert [each.name for each in contenders] == [tiny_llama_dir.name, "checkpoint-2", "run"]
    assert len(one_load(contenders)) == 1
    tokenizer = tokenizer_of(contenders[0])
    texts = list(encode_pairs(tokenizer, [(f"Item {i} is\n", "red") for i in range(6)]))
    prompts = [row.ids[: row.trained[0][0]] for row in texts]

    def both(model):
        return greedy_ids(model, tokenizer, prompts, 12), answer_logprobs(model, tokenizer, texts)

    alone = [both(load_model(str(path))[0]) for path in (tiny_llama_dir, run / "checkpoints" / "checkpoint-2", run)]
    assert len({str(likely) for _, likely in alone}) == 3
    with loaded(contenders) as model:
        for number in (0, 2, 1, 0):
            with model(contenders[number]) as ready:
                assert both(ready) == alone[number]


def test_the_whole_verb_and_its_second_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = api.compare(run, checkpoints="all", out=tmp_path / "out")
    assert [path.name for path in report.paths] == ["compare.html", "compare.md", "rows.jsonl", "summary.json"]
    found = report.comparison
    assert found.names[1:] == ["checkpoint-2", "checkpoint-4", "run"]
    assert {metric.name for metric in found.metrics} == {"label", "perplexity", "exact", "ended", "length"}
    assert found.main.name == "label" and sorted(found.main.labels) == sorted({r["completion"] for r in rows()})
    assert found.measured(found.main)[0].n == 6
    report.print()
    said = capsys.readouterr()
    assert "metric: label accuracy (the expected answers are 3 short texts)" in said.err
    assert report.verdict in said.out

    files = {file: file.read_bytes() for file in (tmp_path / "out" / "answers").iterdir()}
    again = api.compare(run, checkpoints="all", out=tmp_path / "out")
    assert "run: its answers are known from before" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "out" / "answers").iterdir()} == files
    assert again.comparison.summary() == found.summary()


def test_a_stopped_comparison_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped after the first batch of the second model: what was made stays, and nothing is made twice."""
    monkeypatch.setattr(answers_module, "AT_ONCE", 2)
    made = []
    answer = Asked._answer

    def stopping(self, model, title):
        if title == "run" and not made:
            made.append(title)
            half = Asked.__new__(Asked)
            half.__dict__ |= self.__dict__ | {"keys": self.keys[:3], "prompts": self.prompts[:3]}
            answer(half, model, title)
            raise KeyboardInterrupt
        answer(self, model, title)

    monkeypatch.setattr(Asked, "_answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        api.compare(run, out=tmp_path)
    last = fingerprint(contenders_of([str(run)]).contenders[-1])
    before = (tmp_path / "answers" / f"{last}.jsonl").read_text().splitlines()
    assert len(before) == 3
    whole = api.compare(run, out=tmp_path)
    after = (tmp_path / "answers" / f"{last}.jsonl").read_text().splitlines()
    assert after[:3] == before and len(after) == len(set(after)) == 12
    assert whole.comparison.summary() == api.compare(run, out=tmp_path / "other").comparison.summary()


def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path):
    path = tmp_path / "s.jsonl"
    store = Store(path)
    store.add("a", text="é")
    store.add("b", text="x")
    path.write_bytes(path.read_bytes()[:-4])
    again = Store(path)
    assert set(again.known) == {"a"}
    again.add("b", text="new")
    assert {key: line["text"] for key, line in Store(path).known.items()} == {"a": "é", "b": "new"}


def test_a_full_model_is_compared_with_what_it_began_as(tmp_path: Path, tiny_llama_dir: Path):
    run = train(tmp_path, tiny_llama_dir, adapter=None, learning_rate=1e-3, save_steps=None)
    contenders = contenders_of([str(run)]).contenders
    assert len(one_load(contenders)) == 2 and contenders[0].place.tokenizer == contenders[1].place.tokenizer
    report = api.compare(run, n=3)
    assert report.paths[0] == run / "compare" / "compare.html"
    values = report.comparison.results["perplexity"]
    assert values.shape == (2, 3) and (values[1] < values[0]).all()


def test_another_base_is_loaded_beside(run: Path, tiny_qwen2_dir: Path):
    contenders = contenders_of([str(run)], base=str(tiny_qwen2_dir)).contenders
    assert [len(group) for group in one_load(contenders)] == [1, 1]
    tokenizers = [tokenizer_of(each) for each in contenders]
    example = spaced(_examples(run), 1)[0]
    assert prompt_ids(tokenizers[0], example) == prompt_ids(tokenizers[1], example)


def test_rows_of_a_file(run: Path, tmp_path: Path):
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"topic": "foxes", "note": null, "label": "red"}\n{"topic": "dogs", "note": "big", "label": "blue"}\n'
    )
    prompt = "Tell me about {topic}[[, {note}]].\n"
    report = api.compare(run, data=path, prompt=prompt, answer="label", out=tmp_path / "o", max_new_tokens=4)
    asked = [example.prompt for example in report.comparison.examples]
    assert asked == ["Tell me about foxes.\n", "Tell me about dogs, big.\n"]
    assert [example.expected_text for example in report.comparison.examples] == ["red", "blue"]
    without = api.compare(run, data=path, prompt=prompt, out=tmp_path / "o", max_new_tokens=4)
    assert {metric.name for metric in without.comparison.metrics} == {"ended", "length"}
    with pytest.raises(DataError, match="no column"):
        api.compare(run, data=path, prompt=prompt, answer="lable", out=tmp_path / "o")


def test_what_cannot_be_compared(run: Path, tmp_path: Path, tiny_llama_dir: Path):
    with pytest.raises(ModelError, match="nothing says which model"):
        api.compare(str(tiny_llama_dir), out=tmp_path)
    with pytest.raises(ModelError, match="compared with itself"):
        api.compare(str(tiny_llama_dir), base=str(tiny_llama_dir), out=tmp_path)
    with pytest.raises(DataError, match="nothing is known of its rows"):
        api.compare("starter", base=str(tiny_llama_dir), out=tmp_path)
    with pytest.raises(ModelError, match="some of: 2, 4"):
        api.compare(run, checkpoints="3", out=tmp_path)
    with pytest.raises(DataError, match="without --data"):
        api.compare(run, kind="alpaca", out=tmp_path)
    with pytest.raises(DataError, match="exact"):
        api.compare(run, metrics=("exakt",), out=tmp_path)
    with pytest.raises(DataError, match="no database"):
        api.compare(run, metrics=("sql",), out=tmp_path)


def _examples(run: Path):
    contenders = contenders_of([str(run)])
    return rows_of_run(run, contenders.config, tokenizer_of(contenders.contenders[-1]), 0).examples


def test_float32_on_a_cpu_also_after_training_in_bfloat16(run: Path):
    with loaded(contenders_of([str(run)]).contenders) as model:
        for contender in contenders_of([str(run)]).contenders:
            with model(contender) as ready:
                assert {p.dtype for p in ready.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preference_rows_are_the_held_out_ones_and_their_accuracy_is_that_of_training(
    tmp_path: Path, tiny_llama_dir: Path, method: str
):
    run = train(tmp_path, tiny_llama_dir, rl=method, bf16=False, eval_strategy="steps", eval_steps=4, save_steps=None)
    report = api.compare(run, max_new_tokens=4)
    found = report.comparison
    assert found.main.name == "preference" and "chosen and rejected" in found.main.why
    if method == "kto":  # single answers are held out; the other one of a pair is mostly in training
        assert "another part was trained on" in found.facts["rows"]
        return
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [line["eval_logps/accuracies"] for line in lines if "eval_logps/accuracies" in line]
    assert [each.value.value for each in found.measured(found.main)] == pytest.approx([told[0], told[-1]])
    assert found.measured(found.main)[0].n == 6
