"""Function calling with models whose chat templates have formats of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from tests.lm.test_tool_formats import NAMES, model
from tests.serve.conftest import Served, served
from tests.serve.test_tools import NOW, TOOLS, USER, create, fits, streamed

MARK = {"llama": "<|python_tag|>", "mistral": "[TOOL_CALLS]", "mistral-args": "[TOOL_CALLS]"}


@pytest.fixture(scope="module", params=NAMES)
def grit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def live(grit: GritLM) -> Iterator[Served]:
    with served(grit, ServerConfig(port=0), Limits(max_num_seqs=4)) as found:
        yield found


@pytest.mark.parametrize("seed", range(2))
def test_required_calls_parse_and_a_stream_has_the_same(live: Served, seed: int):
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "seed": seed}
    whole = create(live, **options, max_tokens=150).choices[0]
    assert whole.message.content is None
    calls = whole.message.tool_calls
    if whole.finish_reason == "tool_calls":
        assert all(fits(call) for call in calls)
    content, pieces, reasons = streamed(live, **options, max_tokens=150)
    assert content == ""
    assert reasons == [whole.finish_reason]
    assert [(each["name"], each["arguments"]) for each in pieces] == [
        (call.function.name, call.function.arguments) for call in calls
    ]


def test_an_answer_that_begins_a_call_is_a_call(live: Served, grit: GritLM):
    tokenizer = grit.tokenizer
    mark = next(each for each in MARK.values() if each in tokenizer.get_added_vocab())
    options = {"tools": [NOW], "parallel_tool_calls": False}
    found = create(live, **options, logit_bias={tokenizer.convert_tokens_to_ids(mark): 100})
    (call,) = found.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("now", {})
    biased = {tokenizer.convert_tokens_to_ids(each): -100 for each in (mark, "{")}
    text = create(live, **options, logit_bias=biased, max_tokens=12).choices[0].message
    assert text.tool_calls is None
    assert text.content
    assert mark not in text.content


@pytest.mark.parametrize("short", [False, True])
def test_a_conversation_goes_on_with_ids_of_any_form(live: Served, short: bool):
    first = create(live, tools=[NOW], tool_choice="required", parallel_tool_calls=False)
    answer = first.choices[0].message.model_dump(exclude_none=True)
    if not short:
        answer["tool_calls"][0]["id"] = "call_of_another_server"
    result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "noon"}
    again = create(live, tools=[NOW], messages=[USER, answer, result], max_tokens=5)
    assert again.usage.prompt_tokens > len("noon")
    assert again.choices[0].finish_reason in ("length", "stop", "tool_calls")
