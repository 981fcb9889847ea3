"""Every form of a conversation, and what a record that is none is told."""

from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.train.config import SourceConfig
from gritlm.train.data.examples import ChatExample
from gritlm.train.data.formats import parse


def row(record):
    return parse(record, "generative", place="data.jsonl:12", source=SourceConfig("data.jsonl"))


def said(*turns: tuple[str, str]) -> ChatExample:
    return ChatExample(tuple({"role": role, "content": text} for role, text in turns))


ONE = said(("user", "Q"), ("assistant", "A"))
MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": ["Q", "A"]}, ONE),
        (
            {"text": ["Q", "A", "R", "B"]},
            said(("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")),
        ),
        ({"messages": MESSAGES, "prompt": "the same again", "id": 3}, ONE),
        ({"prompt": "Q", "completion": "A"}, ONE),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, ONE),
        ({"instruction": "Q", "input": "", "output": "A"}, ONE),
        ({"instruction": "Q", "output": "A"}, ONE),
        ({"instruction": "Q", "output": "A", "history": []}, ONE),
        (
            {"instruction": "Q", "input": "x", "output": "A"},
            said(("user", "Q\n\nx"), ("assistant", "A")),
        ),
        (
            {"instruction": "Q", "output": "A", "system": "S", "history": [["P", "O"]]},
            said(
                ("system", "S"),
                ("user", "P"),
                ("assistant", "O"),
                ("user", "Q"),
                ("assistant", "A"),
            ),
        ),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, ONE),
        (
            {"conversations": MESSAGES, "system": "S"},
            said(("system", "S"), ("user", "Q"), ("assistant", "A")),
        ),
    ],
)
def test_conversations_are_read(record, expected):
    assert row(record) == expected


def test_what_stands_behind_the_last_answer_is_left_out():
    assert row({"text": ["Q", "A", "and then?"]}) == ONE


def test_an_empty_system_message_is_left_out():
    messages = [{"role": "system", "content": ""}, *MESSAGES]
    assert row({"messages": messages}) == ONE


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "only one"}, r"text is one text; expected a list \[user, assistant"),
        ({"text": []}, "text is empty"),
        ({"text": ["Q"]}, "no turn is an answer of the assistant; expected at least one"),
        ({"text": ["Q", ""]}, r"text\[1\] is empty"),
        ({"text": ["Q", 4]}, r"text\[1\] is 4 \(int\); expected a text"),
        ({"text": ["Q", "\udfff"]}, r"text\[1\] has a lone surrogate"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hello"}, r"messages is 'hello' \(str\); expected a list of messages"),
        ({"messages": ["hello"]}, r"messages\[0\] is 'hello' \(str\); expected {'role'"),
        ({"messages": [3]}, r"messages\[0\] is 3 \(int\); expected {'role'"),
        ({"conversations": [None]}, r"conversations\[0\] is None"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] is {'role': 'user'}"),
        (
            {"messages": [{"role": "critic", "content": "x"}]},
            r"messages\[0\] has role 'critic'; expected system, developer, user, human, assistant",
        ),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"messages\[0\] has role \['user'\]"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\] is None"),
        ({"messages": MESSAGES[:1]}, "no turn is an answer of the assistant"),
        (
            {"messages": [*MESSAGES, {"role": "assistant", "content": " "}]},
            r"messages\[2\] is empty",
        ),
        ({"conversations": [{"from": "judge", "value": "x"}]}, "conversations.0. has role 'judge'"),
        ({"prompt": "Q", "completion": MESSAGES[1:]}, "prompt and completion are a text and"),
        ({"prompt": MESSAGES, "completion": MESSAGES[:1]}, "no turn is an answer of the assistant"),
        ({"prompt": "Q", "completion": ""}, "completion is empty"),
        ({"instruction": "Q", "output": ""}, "output is empty"),
        ({"instruction": "Q", "output": "A", "input": 5}, "input is 5"),
        (
            {"instruction": "Q", "output": "A", "history": "x"},
            r"history is 'x' \(str\); expected a list of \[question, answer\]",
        ),
        ({"instruction": "Q", "output": "A", "history": 5}, r"history is 5 \(int\)"),
        ({"instruction": "Q", "output": "A", "history": [7]}, r"history\[0\] is 7"),
        (
            {"instruction": "Q", "output": "A", "history": [["only asked"]]},
            r"history\[0\] is .* expected \[question, answer\]",
        ),
        ({"question": "Q", "answer": "A"}, "the row has 'question', 'answer'; known generative"),
    ],
)
def test_a_conversation_that_is_none_is_refused(record, message):
    with pytest.raises(InputError, match=f"^data.jsonl:12: {message}"):
        row(record)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(InputError) as caught:
        row({"messages": "word " * 10_000})
    assert len(str(caught.value)) < 200
