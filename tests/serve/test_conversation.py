from __future__ import annotations

import signal

import pytest

from whet.errors import DataError, ModelError
from whet.evaluate.generate import greedy_answers
from whet.serve.conversation import Conversation
from whet.serve.sampling import Sampling

GREEDY = Sampling(temperature=0)


def _silent(piece: str) -> None:
    pass


def test_the_stream_is_the_greedy_answer_and_turns_are_kept(starter):
    said: list[str] = []
    conversation = Conversation(starter, "You write SQL.", 40, GREEDY)
    answer = conversation.ask("How many singers?", said.append)
    assert len(said) > 3 and "".join(said) == answer
    turns = [{"role": "system", "content": "You write SQL."}, {"role": "user", "content": "How many singers?"}]
    assert greedy_answers(starter.model, starter.tokenizer, [turns], max_new_tokens=40) == [answer]
    second = conversation.ask("And in France?", _silent)
    turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And in France?"}]
    assert greedy_answers(starter.model, starter.tokenizer, [turns], max_new_tokens=40) == [second]
    conversation.reset()
    assert conversation.turns == [] and conversation.system == "You write SQL."


def test_ctrl_c_keeps_what_was_said(tiny):
    said: list[str] = []

    def interrupt(piece: str) -> None:
        said.append(piece)
        if len(said) == 5:
            signal.raise_signal(signal.SIGINT)

    conversation = Conversation(tiny, None, 400, GREEDY)
    with pytest.raises(KeyboardInterrupt):
        conversation.ask("Hello", interrupt)
    kept = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "".join(said)}]
    assert len(said) == 5 and conversation.turns == kept
    assert conversation.ask("Go on", _silent)  # the model still works
    assert not tiny.model.training


def test_the_oldest_turns_go_and_the_system_text_stays(tiny, capsys):
    conversation = Conversation(tiny, "Keep this.", 30, GREEDY)
    for i in range(6):
        conversation.ask(f"Question {i}: " + "quick brown fox " * 20, _silent)
    assert conversation.turns[0]["role"] == "user" and len(conversation.turns) < 12
    assert conversation.turns[-2]["content"].startswith("Question 5")
    ids = conversation._ids()
    assert "Keep this." in tiny.tokenizer.decode(ids) and len(ids) <= tiny.context
    said = capsys.readouterr().err
    assert said.count("oldest turns") == 1 and "512 tokens" in said


def test_a_message_that_never_fits(tiny):
    conversation = Conversation(tiny, None, 30, GREEDY)
    conversation.ask("Hello", _silent)
    with pytest.raises(DataError, match="1 to 511"):
        conversation.ask("quick brown fox " * 400, _silent)
    assert len(conversation.turns) in (0, 2) and conversation.ask("Hello", _silent)


def test_a_long_message_leaves_what_room_there_is(tiny):
    text = "quick brown fox "
    while len(tiny.chat_ids([{"role": "user", "content": text}])) < 490:
        text += "fox "
    conversation = Conversation(tiny, None, 400, GREEDY)
    assert conversation.ask(text, _silent)
    conversation.reset()
    conversation.turns.append({"role": "user", "content": text})
    ids, room = conversation._prompt()
    assert len(ids) + room == tiny.context


def test_without_a_chat_template_text_goes_on(starter, capsys):
    bare = type(starter)(starter.model, starter.tokenizer)
    bare.has_template = False
    conversation = Conversation(bare, None, 12, GREEDY)
    said = "The capital of"
    answer = conversation.ask(said, _silent)
    whole = starter.model.generate(**starter.tokenizer(said, return_tensors="pt"), max_new_tokens=12, do_sample=False)
    assert starter.tokenizer.decode(whole[0], skip_special_tokens=True) == said + answer
    assert conversation.turns == [] and conversation.ask(said, _silent) == answer
    assert capsys.readouterr().err.count("no chat template") == 1
    with pytest.raises(ModelError, match="system"):
        Conversation(bare, "You write SQL.", 12, GREEDY)


def test_an_empty_text_without_a_template(starter):
    bare = type(starter)(starter.model, starter.tokenizer)
    bare.has_template = False
    with pytest.raises(DataError, match="empty"):
        Conversation(bare, None, 12, GREEDY).ask("", _silent)


def test_sampling_varies_and_leaves_the_random_state(starter):
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    conversations = [Conversation(starter, None, 30, Sampling(temperature=1.5)) for _ in range(4)]
    answers = {conversation.ask("Tell me a story.", _silent) for conversation in conversations}
    assert len(answers) > 1
    assert torch.equal(torch.get_rng_state(), before)
