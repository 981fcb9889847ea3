"""Function calling over HTTP, by the clients that people use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from tests import tiny
from tests.serve.conftest import ModelSettings, Served, served

LENGTH = 4096
USER = {"role": "user", "content": "Is it warm in Rome?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 6},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]


class Weather(BaseModel):
    """The weather of a city."""

    city: Annotated[str, Field(max_length=6)]
    unit: Literal["C", "F"]


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    """A tiny model with room for tools, whose tokens are single characters."""
    folder = tiny.folder(tmp_path_factory.mktemp("roomy"), max_position_embeddings=LENGTH)
    ModelSettings(max_length=LENGTH).save(folder)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def live(roomy: GritLM) -> Iterator[Served]:
    with served(roomy, ServerConfig(port=0), Limits(max_num_seqs=4)) as found:
        yield found


def create(live: Served, **options: Any) -> Any:
    settings = {"model": "gritlm", "messages": [USER], "seed": 3, "max_tokens": 300}
    return live.openai.chat.completions.create(**(settings | options))


def fits(call: Any) -> bool:
    """Whether the arguments of a call fit the schema of its tool."""
    schemas = {"weather": WEATHER["function"]["parameters"], "now": {"maxProperties": 0}}
    jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
    return True


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_parse_and_name_known_tools(live: Served, seed: int):
    found = create(live, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed)
    (choice,) = found.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert fits(call)
    assert call.type == "function"
    assert call.id.startswith("call_")


def test_a_named_tool_is_called_once(live: Served):
    named = {"type": "function", "function": {"name": "weather"}}
    for n, choice in enumerate(create(live, tools=TOOLS, tool_choice=named, n=3).choices):
        (call,) = choice.message.tool_calls
        assert call.function.name == "weather"
        assert fits(call)
        assert choice.index == n


def test_several_calls_come_in_one_answer(live: Served):
    counts = set()
    for seed in range(4):
        found = create(live, tools=TOOLS, tool_choice="required", seed=seed)
        if found.choices[0].finish_reason == "length":
            continue
        calls = found.choices[0].message.tool_calls
        assert all(fits(call) for call in calls)
        assert len({call.id for call in calls}) == len(calls)
        counts.add(len(calls))
    assert max(counts) > 1


def streamed(live: Served, **options: Any) -> tuple[str, list[dict[str, str]], list[str]]:
    """Content, calls and finish reasons of a stream, put together as a client does it."""
    content, calls, reasons = "", [], []
    for event in create(live, stream=True, **options):
        (choice,) = event.choices
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or []:
            if piece.id:
                assert piece.index == len(calls)
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            calls[piece.index]["arguments"] += piece.function.arguments or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    return content, calls, reasons


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_has_the_same_calls(live: Served, seed: int):
    options = {"tools": TOOLS, "tool_choice": "required", "seed": seed, "max_tokens": 120}
    whole = create(live, **options).choices[0]
    content, calls, reasons = streamed(live, **options)
    assert content == ""
    assert reasons == [whole.finish_reason]
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls
    ]


def test_the_clients_helpers_parse_arguments(live: Served):
    options = {
        "model": "gritlm",
        "messages": [USER],
        "tools": [openai.pydantic_function_tool(Weather)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "seed": 1,
    }
    found = live.openai.chat.completions.parse(**options)
    assert isinstance(found.choices[0].message.tool_calls[0].function.parsed_arguments, Weather)
    with live.openai.chat.completions.stream(**options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    calls = final.choices[0].message.tool_calls
    assert calls[0].function.parsed_arguments == (
        found.choices[0].message.tool_calls[0].function.parsed_arguments
    )


def test_the_model_may_answer_in_text(live: Served):
    found = create(live, tools=TOOLS, max_tokens=12)
    assert found.choices[0].message.content
    assert found.choices[0].message.tool_calls is None
    assert found.choices[0].finish_reason == "length"
    content, calls, reasons = streamed(live, tools=TOOLS, max_tokens=12)
    assert (content, calls, reasons) == (found.choices[0].message.content, [], ["length"])


def test_an_answer_that_begins_a_call_is_a_call(live: Served, roomy: GritLM):
    begin = roomy.tokenizer.convert_tokens_to_ids("<")
    options = {
        "tools": [WEATHER],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 1}}},
    }
    found = create(live, **options, logit_bias={str(begin): 100})
    (call,) = found.choices[0].message.tool_calls
    assert fits(call)
    other = create(live, **options, logit_bias={str(begin): -100})
    assert other.choices[0].message.content == "1"


def test_tools_are_left_out_of_the_prompt_when_they_may_not_be_called(live: Served):
    plain = create(live, max_tokens=2)
    none = create(live, max_tokens=2, tools=TOOLS, tool_choice="none")
    auto = create(live, max_tokens=2, tools=TOOLS)
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens
    assert none.choices[0].message.content == plain.choices[0].message.content
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens + 100


def test_a_conversation_goes_on_after_a_call(live: Served):
    first = create(live, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    answer = first.choices[0].message
    result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "20 degrees"}
    for message in (answer, answer.model_dump(), answer.model_dump(exclude_none=True)):
        again = create(live, tools=TOOLS, messages=[USER, message, result], max_tokens=5)
        assert again.choices[0].finish_reason in ("length", "stop")
        assert again.usage.prompt_tokens > first.usage.prompt_tokens
    without = create(live, messages=[USER, answer, result], max_tokens=5)
    assert without.usage.prompt_tokens < again.usage.prompt_tokens


def test_a_call_that_is_cut_says_so(live: Served):
    named = {"type": "function", "function": {"name": "weather"}}
    options = {"tools": TOOLS, "tool_choice": named}
    whole = create(live, **options)
    cut = create(live, **options, max_tokens=whole.usage.completion_tokens - 20)
    assert cut.choices[0].finish_reason == "length"
    arguments = cut.choices[0].message.tool_calls[0].function.arguments
    assert whole.choices[0].message.tool_calls[0].function.arguments.startswith(arguments)
    early = create(live, **options, max_tokens=5)
    assert early.choices[0].finish_reason == "length"
    assert early.choices[0].message.tool_calls is None


def test_log_probabilities_of_calls_are_those_of_all_their_tokens(live: Served):
    options = {"tools": [NOW], "tool_choice": "required", "parallel_tool_calls": False}
    found = create(live, **options, logprobs=True)
    tokens = found.choices[0].logprobs.content
    assert len(tokens) == found.usage.completion_tokens
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text.startswith("<tool_call>")


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools", "two tools have the name 'weather'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "wether"}}},
            "tool_choice",
            "no tool 'wether'; did you mean 'weather'",
        ),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "missing"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": "any"}, "tool_choice", "'auto', 'none', 'required'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "pattern"),
        ({"tools": [NOW] * 129}, "tools", "128"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
            "tools",
            "dictionary",
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
                ]
            },
            "tools",
            "'array'",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"required": "city"}},
                    }
                ]
            },
            "tools",
            "cannot be enforced",
        ),
        (
            {
                "tools": [
                    NOW,
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "strict": True,
                            "parameters": {"properties": {"a": {"not": {}}}},
                        },
                    },
                ]
            },
            "tools",
            "the tool 'f'",
        ),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "c", "content": "x"}]},
            "messages[1].tool_call_id",
            "the call 'c'",
        ),
        ({"guided_regex": "a"}, "guided_regex", "exclude each other"),
    ],
)
def test_what_cannot_be_called_is_one_clear_400(
    live: Served, change: dict[str, Any], param: str, reason: str
):
    body = {"messages": [USER], "tools": TOOLS} | change
    response = live.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert reason in error["message"]
    assert "\n" not in error["message"]


def chat_of(live: Served) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        base_url=f"{live.url}/v1",
        api_key="none",
        model="gritlm",
        http_client=live.http,
        temperature=1,
        seed=5,
        max_tokens=200,
    )


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_structured_output(live: Served, method: str):
    model = chat_of(live).with_structured_output(Weather, method=method)
    assert isinstance(model.invoke("Rome?"), Weather)


def test_langchain_binds_tools(live: Served):
    from langchain_core.messages import HumanMessage, ToolMessage

    chat = chat_of(live)
    bound = chat.bind_tools([Weather], tool_choice="any", parallel_tool_calls=False)
    asked = HumanMessage("Rome?")
    answer = bound.invoke([asked])
    (call,) = answer.tool_calls
    assert call["name"] == "Weather"
    assert Weather(**call["args"])
    pieces = list(bound.stream([asked]))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert [each["name"] for each in whole.tool_calls] == ["Weather"]
    result = ToolMessage("20 degrees", tool_call_id=call["id"])
    last = chat.bind_tools([Weather]).invoke([asked, answer, result], max_tokens=5)
    assert last.response_metadata["finish_reason"] in ("length", "stop", "tool_calls")
