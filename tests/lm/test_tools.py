"""Function calling: prompts, grammars of calls, and calls found in text cut anywhere."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.grammar.formats import OutputFormat
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.tools.call_format import calls_format
from gritlm.lm.tools.call_parser import CallParser
from gritlm.lm.tools.definitions import Tool, ToolChoice, chosen, require_tools
from gritlm.lm.tools.prompt import plain_turns, tool_chat_ids
from tests import tiny

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "The weather of a city", CITY)
NOW = Tool("now")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is it warm in Rome?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": f"c{n}",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
            }
            for n in range(2)
        ],
    },
    {"role": "tool", "tool_call_id": "c0", "content": "20 degrees"},
    {"role": "tool", "tool_call_id": "c1", "content": "sun"},
]
HERMES = (
    "{% if tools %}<|tools|>{% for t in tools %}{{ t.function | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def grit(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    folder = tiny.folder(tmp_path_factory.mktemp("llama"), max_position_embeddings=1024)
    return GritLM(folder, dtype="float32", device="cpu")


def parsed(text: str, cuts: list[int]) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls of a text that arrives in pieces."""
    parser = CallParser()
    borders = [0, *sorted(cuts), len(text)]
    pieces = [parser.push(text[a:b]) for a, b in pairwise(borders)]
    pieces.append(parser.close())
    calls: dict[int, list[str]] = {}
    for each in pieces:
        assert len({call.index for call in each.calls}) == len(each.calls)
        for call in each.calls:
            if call.name is not None:  # once, in the first piece
                assert call.index not in calls
                calls[call.index] = [call.name, ""]
            calls[call.index][1] += call.arguments
    content = "".join(each.content for each in pieces)
    return content, [(name, arguments) for name, arguments in calls.values()]


ROME = ("weather", '{"city": "Rome"}')
TRICKY = '{"a": "}</tool_call>\\"{[", "b": [{}, {"c": "<tool_call>"}]}'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello, a < b <tool", "Hello, a < b <tool", []),
        ("  Hello \n", "  Hello \n", []),
        (CALL, "", [ROME]),
        (f"\n{CALL}\n{CALL}\n", "", [ROME, ROME]),
        (f"Let me see.\n\n{CALL}", "Let me see.", [ROME]),
        (f"{CALL} and so on", " and so on", [ROME]),
        (
            f'<tool_call>{{"name": "x", "arguments": {TRICKY}}}</tool_call>',
            "",
            [("x", TRICKY)],
        ),
        (CALL[:52], "", [("weather", '{"city"')]),
        (CALL[:25], "", []),
    ],
)
def test_calls_are_found_however_the_text_is_cut(text: str, content: str, calls: list):
    chance = random.Random(0)
    cases = [[], list(range(1, len(text)))]
    cases += [chance.sample(range(len(text)), min(5, len(text))) for _ in range(50)]
    for cuts in cases:
        found, found_calls = parsed(text, cuts)
        assert (found, found_calls) == (content, calls), cuts


def test_no_character_of_an_answer_without_calls_is_held_back_for_long():
    parser = CallParser()
    assert parser.push("Hello ").content == "Hello"
    assert parser.push("you").content == " you"
    assert parser.push("<to").content == ""
    assert parser.push("p>").content == "<top>"


@pytest.mark.parametrize("seed", range(4))
def test_required_calls_of_random_weights_parse(grit: GritLM, seed: int):
    choice = chosen([WEATHER, NOW], "required", parallel=False)
    assert choice is not None
    mask = grit.grammar(calls_format(choice)).start
    text = grit.chat("Hi", mask=mask, temperature=1.0, seed=seed, max_new_tokens=200)
    content, calls = parsed(text, [])
    assert content == ""
    ((name, arguments),) = calls
    assert name in ("weather", "now")
    expected = ["city"] if name == "weather" else []
    assert list(json.loads(arguments)) == expected


@pytest.mark.parametrize("parallel", [True, False])
def test_text_is_free_until_a_call_begins(grit: GritLM, parallel: bool):
    choice = ToolChoice((WEATHER,), parallel=parallel)
    constraint = grit.grammar(calls_format(choice)).start()
    matcher = constraint._matcher
    ids = grit.tokenizer("Well: a < b\n", add_special_tokens=False)["input_ids"]
    assert matcher.try_consume_tokens(ids) == len(ids)
    call = grit.tokenizer(CALL, add_special_tokens=False)["input_ids"]
    assert matcher.try_consume_tokens(call) == len(call)
    assert matcher.is_accepting()
    other = CALL.replace("weather", "bombs")
    for text, allowed in ((CALL, parallel), (other, False), ("Done.", parallel)):
        ids = grit.tokenizer(text, add_special_tokens=False)["input_ids"]
        copy = matcher.deep_copy()
        assert (copy.try_consume_tokens(ids) == len(ids)) == allowed, text


def test_an_answer_is_calls_or_the_requested_format(grit: GritLM):
    choice = ToolChoice((WEATHER,))
    both = calls_format(choice, OutputFormat.json_schema(CITY))
    for text, allowed in (('{"city": "Rome"}', True), (CALL, True), ("Rome", False)):
        matcher = grit.grammar(both).start()._matcher
        ids = grit.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (matcher.try_consume_tokens(ids) == len(ids)) == allowed
    with pytest.raises(InputError, match="exclude each other"):
        calls_format(choice, OutputFormat.choice(["a"]))


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([WEATHER, WEATHER], "two tools have the name 'weather'"),
        ([Tool("a b")], "'a b'"),
        ([Tool("x" * 65)], "1 to 64"),
        ([Tool(f"t{n}") for n in range(129)], "129 tools"),
        ([Tool("t", parameters={"type": "string"})], "'string'"),
    ],
)
def test_tools_that_cannot_be_told_apart_are_refused(tools: list[Tool], reason: str):
    with pytest.raises(InputError, match=reason):
        require_tools(tools)


def test_a_choice_names_one_of_the_tools():
    assert chosen([WEATHER, NOW], "now", named=True) == ToolChoice(
        (NOW,), required=True, parallel=False
    )
    assert chosen([WEATHER], "none") is None
    assert chosen([], "auto") is None
    with pytest.raises(InputError, match="no tool 'wether'; did you mean 'weather'"):
        chosen([WEATHER], "wether", named=True)
    with pytest.raises(InputError, match="required"):
        chosen([], "required")


def test_a_schema_that_cannot_be_enforced_names_its_tool(grit: GritLM):
    wrong = Tool("t", parameters={"properties": {"a": {"type": "nothing"}}})
    with pytest.raises(InputError, match="nothing"):
        grit.grammar(calls_format(ToolChoice((wrong,))))


def test_plain_turns_hold_tools_calls_and_results():
    turns = plain_turns(TALK, [WEATHER])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0]["content"].startswith("Be brief.\n\n")
    assert json.dumps(WEATHER.as_openai()) in turns[0]["content"]
    assert turns[2]["content"] == f"{CALL}\n{CALL}"
    assert turns[3]["content"] == (
        "<tool_response>\n20 degrees\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    )
    without = plain_turns(TALK[1:2], [])
    assert without == [{"role": "user", "content": "Is it warm in Rome?"}]


def tokens_with(template: str) -> SegmentTokenizer:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return SegmentTokenizer(tokenizer)


def test_a_template_with_tools_writes_them_itself():
    tokens = tokens_with(HERMES)
    ids = tool_chat_ids(tokens, TALK, [WEATHER], template="tokenizer")
    text = tokens.tokenizer.decode(ids)
    assert text.startswith('<|tools|>{"name": "weather"')
    assert text.count(CALL) == 2
    assert "<|tool|>\n20 degrees" in text
    assert text.endswith("<|assistant|>\n")


@pytest.mark.parametrize("template", ["tokenizer", "gritlm"])
def test_other_templates_get_the_tools_as_text(template: str):
    tokens = tokens_with(tiny.CHAT)
    ids = tool_chat_ids(tokens, TALK, [WEATHER], template=template)
    text = tokens.tokenizer.decode(ids)
    assert "<tools>" in text
    assert text.count(CALL) == 2


def test_special_tokens_in_arguments_stay_text():
    tokens = tokens_with(HERMES)
    function = {"name": "weather", "arguments": '{"city": "</s>"}'}
    talk = [
        TALK[1],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "<s>"},
    ]
    ids = tool_chat_ids(tokens, talk, [WEATHER], template="tokenizer")
    special = set(tokens.tokenizer.all_special_ids)
    assert special.isdisjoint(ids)
    assert "</s>" in tokens.tokenizer.decode(ids)


def test_arguments_that_are_no_object_are_rendered_too():
    function = {"name": "weather", "arguments": "not JSON"}
    talk = [
        TALK[1],
        {
            "role": "assistant",
            "content": "Well",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]
    for template in (HERMES, tiny.CHAT):
        assert tool_chat_ids(tokens_with(template), talk, [], template="tokenizer")


def test_a_conversation_without_tools_is_rendered_as_before(grit: GritLM, tmp_path: Path):
    tokens = SegmentTokenizer(grit.tokenizer)
    talk = TALK[:2]
    ids = tool_chat_ids(tokens, talk, [], template=grit.settings.template)
    assert ids == grit.chat_ids(talk)
