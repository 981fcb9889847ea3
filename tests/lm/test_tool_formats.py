"""Native formats of tool calls: chosen by the chat template, enforced, and found in text."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.chat import chat_ids
from gritlm.lm.grammar.formats import OutputFormat
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.tools.call_format import HERMES, CallFormat, calls_format
from gritlm.lm.tools.call_parser import CallParser
from gritlm.lm.tools.definitions import ToolChoice
from gritlm.lm.tools.native_formats import native_format
from gritlm.lm.tools.prompt import call_format_of, tool_chat_ids
from tests import tiny
from tests.lm import tool_templates
from tests.lm.test_tools import HERMES as HERMES_TEMPLATE
from tests.lm.test_tools import NOW, TRICKY, WEATHER

NAMES = list(tool_templates.TEMPLATES)
ROME = '{"city": "Rome"}'
CALL = {
    "id": "call_of_another_server",
    "type": "function",
    "function": {"name": "weather", "arguments": ROME},
}
TALK = [
    {"role": "user", "content": "Is it warm in Rome?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": CALL["id"], "content": "20 degrees"},
    {"role": "user", "content": "And now?"},
]
ONE = {
    "llama": '{"name": "weather", "parameters": {"city": "Rome"}}',
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]',
    "mistral-args": '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}',
}


def format_of(name: str) -> CallFormat:
    found = native_format(tool_templates.tokenizer(name))
    assert found is not None
    return found


@pytest.fixture(scope="module", params=NAMES)
def grit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return model(tmp_path_factory.mktemp(request.param), request.param)


def model(path: Path, name: str) -> GritLM:
    """A tiny model with the template of a format."""
    size = tool_templates.VOCABULARY
    folder = tiny.folder(path, max_position_embeddings=2048, vocab_size=size)
    tool_templates.tokenizer(name).save_pretrained(folder)
    return GritLM(folder, dtype="float32", device="cpu")


def parsed(
    text: str, calls: CallFormat, cuts: list[int]
) -> tuple[str, list[tuple[str | None, str]]]:
    """Content and calls of a text that arrives in pieces."""
    parser = CallParser(calls)
    pieces = [parser.push(text[a:b]) for a, b in pairwise([0, *sorted(cuts), len(text)])]
    pieces.append(parser.close())
    found: list[tuple[str | None, str]] = []
    for call in [call for each in pieces for call in each.calls]:
        if call.name is not None:
            assert call.index == len(found)
            found.append((call.name, ""))
        found[call.index] = (found[call.index][0], found[call.index][1] + call.arguments)
    return "".join(each.content for each in pieces), found


@pytest.mark.parametrize("name", NAMES)
def test_the_template_tells_the_format(name: str):
    assert format_of(name).name == name


def test_other_templates_have_the_format_of_hermes_or_none():
    tokenizer = tiny.tokenizer()
    assert native_format(tokenizer) is None
    tokenizer.chat_template = HERMES_TEMPLATE
    assert native_format(tokenizer) == HERMES
    tokenizer.chat_template = tool_templates.MISTRAL  # its mark is no token here
    assert native_format(tokenizer) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_template_writes_tools_calls_and_results(name: str):
    tokens = SegmentTokenizer(tool_templates.tokenizer(name))
    text = tokens.tokenizer.decode(tool_chat_ids(tokens, TALK, [WEATHER], template="tokenizer"))
    assert "<tool_call>" not in text
    assert "The weather of a city" in text
    assert "20 degrees" in text
    call = text.partition("Is it warm in Rome?")[2]
    begin = call.index("{" if name == "llama" else "[TOOL_CALLS]")
    end = call.index("<|eot_id|>", begin) if name == "llama" else call.index("</s>")
    assert parsed(call[begin:end], format_of(name), []) == ("", [("weather", ROME)])


WEATHER_CALL = ("weather", ROME)
TRICKY_CALL = ("x", TRICKY)


@pytest.mark.parametrize(
    ("name", "text", "content", "calls"),
    [
        *[(name, text, "", [WEATHER_CALL]) for name, text in ONE.items()],
        *[(name, "Hello, {a} [TOOL", "Hello, {a} [TOOL", []) for name in NAMES],
        ("llama", f"<|python_tag|>{ONE['llama']}", "", [WEATHER_CALL]),
        ("llama", f'\n{{"name": "x", "parameters": {TRICKY}}}', "", [TRICKY_CALL]),
        ("llama", '{"name": "Rome", "size": 3}', '{"name": "Rome", "size": 3}', []),
        ("llama", '{"name": "x", "parameters": 3}', '{"name": "x", "parameters": 3}', []),
        ("llama", '{"city": "Rome"}', '{"city": "Rome"}', []),
        ("llama", f"Here: {ONE['llama']}", f"Here: {ONE['llama']}", []),
        (
            "mistral",
            f"Well.\n{ONE['mistral'][:-1]}, "
            f'{{"name": "x", "arguments": {TRICKY}, "id": "123456789"}}]',
            "Well.",
            [WEATHER_CALL, TRICKY_CALL],
        ),
        ("mistral", ONE["mistral"][:-8], "", [("weather", '{"city": "')]),
        (
            "mistral-args",
            f"Well.{ONE['mistral-args']}[TOOL_CALLS]x[CALL_ID]123456789[ARGS]{TRICKY}",
            "Well.",
            [WEATHER_CALL, TRICKY_CALL],
        ),
    ],
)
def test_calls_are_found_however_the_text_is_cut(name: str, text: str, content: str, calls: list):
    chance = random.Random(0)
    cases = [[], list(range(1, len(text)))]
    cases += [chance.sample(range(len(text)), min(5, len(text))) for _ in range(50)]
    for cuts in cases:
        assert parsed(text, format_of(name), cuts) == (content, calls), cuts


def takes(grit: GritLM, output: OutputFormat, text: str) -> bool:
    """Whether a format takes a text as a complete answer."""
    matcher = grit.grammar(output).start()._matcher
    ids = grit.tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_the_grammar_takes_calls_in_the_format_and_no_others(grit: GritLM):
    calls = native_format(grit.tokenizer)
    assert calls is not None
    one = ONE[calls.name]
    required = calls_format(ToolChoice((WEATHER, NOW), required=True), calls=calls)
    auto = calls_format(ToolChoice((WEATHER, NOW)), calls=calls)
    both = calls_format(ToolChoice((WEATHER,)), OutputFormat.json_schema({"const": 1}), calls)
    for text, in_required, in_auto, in_both in (
        (one, True, True, True),
        (one.replace("weather", "bombs"), False, False, False),
        (one.replace("city", "town"), False, False, False),
        (f"<tool_call>{ROME}", False, True, False),
        ("It is warm.", False, True, False),
        ("1", False, True, True),
    ):
        assert takes(grit, required, text) == in_required, text
        assert takes(grit, auto, text) == in_auto, text
        assert takes(grit, both, text) == in_both, text
    several = {
        "llama": (f"<|python_tag|>{one}", True),
        "mistral": (f"{one[:-1]}, {one[14:]}", True),
        "mistral-args": (one + one.replace("[ARGS]", "[CALL_ID]abcdefgh1[ARGS]"), True),
    }
    text, allowed = several[calls.name]
    assert takes(grit, required, text) == allowed


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_of_random_weights_parse(grit: GritLM, seed: int):
    calls = native_format(grit.tokenizer)
    assert calls is not None
    choice = ToolChoice((WEATHER, NOW), required=True, parallel=False)
    mask = grit.grammar(calls_format(choice, calls=calls)).start
    text = grit.chat(
        "Hi",
        mask=mask,
        temperature=1.0,
        seed=seed,
        max_new_tokens=200,
        shown_special_ids=calls.special_ids,
    )
    content, ((name, arguments),) = parsed(text, calls, [])
    assert content == ""
    assert list(json.loads(arguments)) == {"weather": ["city"], "now": []}[str(name)]


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_in_messages_stay_text_and_calls_have_tags(name: str):
    tokens = SegmentTokenizer(tool_templates.tokenizer(name))
    special = tool_templates.SPECIAL[name][-1]
    talk = [{"role": "user", "content": f"What is {special}?"}]
    assert call_format_of(tokens, talk, [WEATHER], template="tokenizer") == HERMES
    ids = tool_chat_ids(tokens, talk, [WEATHER], template="tokenizer")
    assert tokens.tokenizer.convert_tokens_to_ids(special) not in ids
    plain = chat_ids(tokens, talk, template="tokenizer")
    assert tokens.tokenizer.convert_tokens_to_ids(special) not in plain
    assert special in tokens.tokenizer.decode(plain)


def test_a_template_for_single_calls_refuses_several():
    tokens = SegmentTokenizer(tool_templates.tokenizer("llama"))
    talk = [TALK[0], {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}, TALK[3]]
    with pytest.raises(InputError, match="single tool-calls"):
        tool_chat_ids(tokens, talk, [WEATHER], template="tokenizer")
