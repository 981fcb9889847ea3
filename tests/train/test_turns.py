"""Messages as other tools write them: parts, developers, tool calls and their results."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gritlm.errors import InputError
from gritlm.lm.chat import conversation
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.tools.definitions import Tool
from gritlm.lm.tools.prompt import tool_chat_ids
from gritlm.train.config import DataConfig, SourceConfig
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import ChatExample
from gritlm.train.data.formats import parse
from gritlm.train.data.sources import digest
from tests import tiny
from tests.train.test_chats import ONE, row, said

TOKENS = SegmentTokenizer(tiny.tokenizer())
QUESTION = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
RESULT = "<tool_response>\n4\n</tool_response>"
FUNCTION = {"name": "add", "arguments": '{"a": 2}'}
WITH_TOOL = ChatExample(
    (QUESTION, {"role": "assistant", "content": CALL}, {"role": "user", "content": RESULT}, ANSWER),
    context=(1,),
)


def text_of(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {
                "messages": [
                    {"role": "user", "content": text_of("Q")},
                    {"role": "assistant", "content": text_of("A")},
                ]
            },
            ONE,
        ),
        (
            {"messages": [{"role": "user", "content": text_of("Q", "uestion")}, ANSWER]},
            said(("user", "Question"), ("assistant", "A")),
        ),
        (
            {"messages": [{"role": "user", "content": ["Q", "1"]}, ANSWER]},
            said(("user", "Q1"), ("assistant", "A")),
        ),
        (
            {"messages": [{"role": "developer", "content": "S"}, QUESTION, ANSWER]},
            said(("system", "S"), ("user", "Q"), ("assistant", "A")),
        ),
        (
            {"prompt": [QUESTION], "completion": [{"role": "assistant", "content": text_of("A")}]},
            ONE,
        ),
        (
            {
                "conversations": [
                    human("Q"),
                    {"from": "function_call", "value": json.dumps(FUNCTION)},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            WITH_TOOL,
        ),
        (
            {
                "messages": [
                    QUESTION,
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"id": "1", "type": "function", "function": FUNCTION}],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": text_of("4")},
                    ANSWER,
                ]
            },
            WITH_TOOL,
        ),
        (
            {
                "messages": [
                    QUESTION,
                    {"role": "assistant", "function_call": FUNCTION},
                    {"role": "function", "name": "add", "content": "4"},
                    ANSWER,
                ]
            },
            WITH_TOOL,
        ),
        (
            {
                "messages": [
                    QUESTION,
                    {
                        "role": "assistant",
                        "content": "Let me see.",
                        "tool_calls": [{"function": FUNCTION}],
                    },
                    {"role": "tool", "content": {"sum": 4}},
                    ANSWER,
                ]
            },
            ChatExample(
                (
                    QUESTION,
                    {"role": "assistant", "content": f"Let me see.\n{CALL}"},
                    {"role": "user", "content": RESULT.replace("4", '{"sum": 4}')},
                    ANSWER,
                ),
                context=(1,),
            ),
        ),
        (
            {
                "messages": [
                    QUESTION,
                    {"role": "assistant", "tool_calls": [FUNCTION, FUNCTION]},
                    {"role": "tool", "content": "4"},
                    {"role": "tool", "content": ""},
                    ANSWER,
                ]
            },
            ChatExample(
                (
                    QUESTION,
                    {"role": "assistant", "content": f"{CALL}\n{CALL}"},
                    {"role": "user", "content": f"{RESULT}\n{RESULT.replace('4', '')}"},
                    ANSWER,
                ),
                context=(1,),
            ),
        ),
        (
            {
                "messages": [
                    QUESTION,
                    ANSWER,
                    {"role": "assistant", "tool_calls": [FUNCTION]},
                    {"role": "tool", "content": "4"},
                ]
            },
            ONE,
        ),
    ],
)
def test_messages_of_other_tools_are_read(record: dict[str, Any], expected: ChatExample):
    assert row(record) == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            r"messages\[0\].content\[0\] has the address 'x'; expected a data: URL",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            r"messages\[0\].content\[0\] is 3",
        ),
        ({"messages": [{"role": "user", "content": []}]}, r"messages\[0\] is \[\]"),
        ({"messages": [{"role": "user", "content": text_of(" ", "")}]}, r"messages\[0\] is empty"),
        (
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [FUNCTION]}]},
            "no turn is an answer of the assistant",
        ),
        (
            {"messages": [QUESTION, {"role": "tool", "content": "\udfff"}, ANSWER]},
            r"messages\[1\] has a lone surrogate",
        ),
        (
            {"conversations": [human("Q"), {"from": "function_call", "value": "add"}, ANSWER]},
            r"a call of conversations\[1\] is 'add' \(str\); expected \{'name'",
        ),
        (
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"id": "1"}]}, ANSWER]},
            r"a call of messages\[1\] is \{'id': '1'\} \(dict\); expected",
        ),
        (
            {"messages": [QUESTION, ANSWER], "tools": [{"type": "function"}]},
            r"tools\[0\] is \{'type': 'function'\} \(dict\); expected",
        ),
        (
            {"messages": [QUESTION, ANSWER], "tools": "none"},
            r"tools is 'none' \(str\); expected a list",
        ),
        ({"messages": [{"role": "x" * 5000, "content": "Q"}]}, r"messages\[0\] has role 'xx"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused(record: dict[str, Any], message: str):
    with pytest.raises(InputError, match=f"^data.jsonl:12: {message}") as caught:
        row(record)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("template", ["gritlm", "tokenizer"])
def test_a_tool_call_is_read_and_not_trained(template: str):
    prompt = conversation(TOKENS, WITH_TOOL.messages, template=template, context=WITH_TOOL.context)
    whole = conversation(TOKENS, WITH_TOOL.messages, template=template)
    assert prompt.ids == whole.ids
    assert prompt.trained == whole.trained[1:]
    assert "add" in TOKENS.tokenizer.decode(prompt.ids)
    trained = [TOKENS.tokenizer.decode(prompt.ids[start:end]) for start, end in prompt.trained]
    assert [text.removesuffix("</s>") for text in trained] == ["A"]


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("template", ["gritlm", "tokenizer"])
def test_a_row_with_tools_has_the_tokens_of_the_servers_prompt(template: str, system: bool):
    arguments = '{"a": 2, "b": "\\u00e9"}'
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tools = [Tool("add", "Adds numbers", parameters), Tool("now")]
    talk = [
        *([{"role": "system", "content": "Be brief."}] if system else []),
        QUESTION,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call | {"id": "1"}] * 2},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [call | {"id": "2"}]},
        {"role": "tool", "tool_call_id": "2", "content": "5"},
    ]
    listed = [tool.as_openai() for tool in tools]
    listed[0]["function"]["strict"] = listed[0]["function"]["parameters"]["required"] = None
    example = row({"messages": [*talk, ANSWER], "tools": listed})
    assert row({"messages": [*talk, ANSWER], "tools": json.dumps(listed)}) == example
    trained = conversation(TOKENS, example.messages, template=template, context=example.context)
    served = tool_chat_ids(TOKENS, talk, tools, template=template)
    assert trained.ids[: len(served)] == served
    ((start, _),) = trained.trained
    assert start == len(served)


def test_a_call_and_an_answer_of_the_same_words_are_different_rows():
    call = {"role": "assistant", "content": "A"}
    rows = [
        ChatExample((QUESTION, call, ANSWER)),
        ChatExample((QUESTION, call, ANSWER), context=(1,)),
    ]
    assert digest(rows[0]) != digest(rows[1])


def test_a_conversation_that_the_chat_template_refuses_is_found_before_the_first_step():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    from gritlm.lm.hub.model_config import UNSTATED

    settings = UNSTATED.but(template="tokenizer")
    collator = Collator(SegmentTokenizer(tokenizer), settings, DataConfig())
    collator.require_usable(said(("user", "Q"), ("assistant", "A")))
    with pytest.raises(InputError, match=r"template of this model refuses .*no system role"):
        collator.require_usable(said(("system", "S"), ("user", "Q"), ("assistant", "A")))


def test_a_row_with_many_keys_is_refused_in_a_short_line():
    record = {f"column {number}": 1 for number in range(5000)}
    with pytest.raises(InputError) as caught:
        parse(record, "generative", place="data.jsonl:1", source=SourceConfig("data.jsonl"))
    assert len(str(caught.value)) < 600
