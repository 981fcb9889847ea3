"""Structured output over HTTP: answers fit their formats, and chats without one do not notice."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from gritlm import GritLM
from gritlm.errors import MissingExtraError
from gritlm.lm.grammar.compiler import Grammar, GrammarCompiler
from gritlm.lm.grammar.formats import OutputFormat
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from tests.serve.conftest import Served, served

USER = {"role": "user", "content": "Who is it?"}
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


class Person(BaseModel):
    name: Annotated[str, Field(max_length=6)]
    age: Annotated[int, Field(ge=0, le=99)]
    kind: Literal["cat", "dog"]


PERSON = Person.model_json_schema()
STRICT = {
    "type": "json_schema",
    "json_schema": {"name": "person", "strict": True, "schema": PERSON},
}


@pytest.fixture(scope="module")
def live(grit: GritLM) -> Iterator[Served]:
    with served(grit, ServerConfig(port=0), Limits(max_num_seqs=8)) as found:
        yield found


def ask(live: Served, path: str = CHAT, **change: Any) -> dict[str, Any]:
    """The body of a successful response at temperature 1."""
    prompt = {"messages": [USER]} if path == CHAT else {"prompt": "It is "}
    response = live.http.post(path, json=prompt | {"seed": 1, "max_tokens": 100} | change)
    assert response.status_code == 200, response.text
    assert "x-gritlm-ignored" not in response.headers
    return response.json()


def text_of(body: dict[str, Any]) -> str:
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"] if "message" in choice else choice["text"]


def refusal(live: Served, **change: Any) -> dict[str, Any]:
    response = live.http.post(CHAT, json={"messages": [USER]} | change)
    assert response.status_code == 400, response.text
    return response.json()["error"]


@pytest.mark.parametrize("seed", range(3))
def test_the_official_client_parses_a_model(live: Served, seed: int):
    found = live.openai.chat.completions.parse(
        model="gritlm", messages=[USER], response_format=Person, seed=seed, max_tokens=100
    )
    assert isinstance(found.choices[0].message.parsed, Person)
    assert found.choices[0].finish_reason == "stop"


def test_the_streaming_helper_of_the_client_parses_a_model(live: Served):
    with live.openai.chat.completions.stream(
        model="gritlm", messages=[USER], response_format=Person, seed=1, max_tokens=100
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.done" in kinds
    assert isinstance(final.choices[0].message.parsed, Person)
    whole = text_of(ask(live, response_format=STRICT))
    assert Person.model_validate_json(whole)


def test_several_answers_each_fit(live: Served):
    found = ask(live, response_format=STRICT, n=4, seed=7)
    texts = [choice["message"]["content"] for choice in found["choices"]]
    assert len(set(texts)) > 1
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)


def test_an_object_is_an_object(live: Served):
    found = live.http.post(
        CHAT,
        json={"messages": [USER], "response_format": {"type": "json_object"}, "max_tokens": 20},
    ).json()
    assert found["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"guided_regex": r"[a-z]{2}/\d"}, r"[a-z]{2}/\d"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'start: "a" | "b" start'}, "b*a"),
        ({"guided_json": {"enum": [1, "x"]}}, '1|"x"'),
        ({"guided_json": '{"enum": [1, "x"]}'}, '1|"x"'),
        ({"structured_outputs": {"regex": "[0-9]{4}"}}, "[0-9]{4}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"json": {"const": 7}}}, "7"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b"'}}, "a|b"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 7}}}},
            "7",
        ),
    ],
)
def test_the_names_of_vllm_are_known_to_both_endpoints(
    live: Served, path: str, change: dict[str, Any], pattern: str
):
    assert re.fullmatch(pattern, text_of(ask(live, path, **change)))


def test_an_answer_that_is_cut_says_so_and_one_that_is_complete_does_not(live: Served):
    choice = {"guided_choice": ["Water boils", "Water freezes"]}
    whole = ask(live, **choice)
    tokens = whole["usage"]["completion_tokens"]
    exact = ask(live, **choice, max_tokens=tokens)
    assert exact["choices"] == whole["choices"]
    assert whole["choices"][0]["finish_reason"] == "stop"
    cut = ask(live, **choice, max_tokens=tokens - 1)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert text_of(whole).startswith(cut["choices"][0]["message"]["content"])
    with pytest.raises(openai.LengthFinishReasonError):
        live.openai.chat.completions.parse(
            model="gritlm", messages=[USER], response_format=Person, max_tokens=3
        )


def test_a_stop_string_ends_a_text_with_a_format(live: Served):
    body = ask(live, guided_regex="[0-9]{3}-[0-9]{3}", stop=["-"])
    assert re.fullmatch("[0-9]{3}", text_of(body))


def test_log_probabilities_are_those_of_the_model(live: Served):
    body = ask(live, guided_choice=["a", "b"], logprobs=True, top_logprobs=2)
    (token,) = body["choices"][0]["logprobs"]["content"]
    assert token["token"] in ("a", "b")
    assert token["logprob"] <= token["top_logprobs"][0]["logprob"]


def test_chats_without_a_format_get_what_they_get_alone(live: Served, oracle: GritLM):
    expected = oracle.chat([USER], max_new_tokens=40)

    def plain(_: int) -> str:
        body = {"messages": [USER], "temperature": 0, "max_tokens": 40}
        return live.http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]

    def formed(seed: int) -> str:
        return text_of(ask(live, response_format=STRICT, seed=seed))

    with ThreadPoolExecutor(8) as pool:
        both = [pool.submit(call, n) for n in range(8) for call in (plain, formed)]
        texts = [each.result() for each in both]
    assert texts[::2] == [expected] * 8
    for text in texts[1::2]:
        jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "one output format"),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "guided_regex",
            "one output format",
        ),
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"guided_json": {"type": "thing"}}, "guided_json", "thing"),
        ({"guided_json": "{"}, "guided_json", "no JSON"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar", "nothing"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_json": {"enum": ["x" * 9] * 20_000}}, "guided_json", "at most 131,072"),
        ({"guided_json": {"allOf": [{"not": {}}]}}, "guided_json", "not"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs.structural_tag",
            "'structures'",
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "tag"}}},
            "response_format.format",
            "'triggers'",
        ),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}],
                    "triggers": ["<b"],
                }
            },
            "response_format",
            "no trigger begins",
        ),
    ],
)
def test_a_format_that_cannot_be_used_is_one_clear_400(
    live: Served, change: dict[str, Any], param: str, reason: str
):
    error = refusal(live, **change)
    assert error["param"].startswith(param)
    assert reason in error["message"]
    assert len(error["message"]) < 600
    assert "\n" not in error["message"]


def test_a_structural_tag_leaves_text_free_up_to_its_trigger(live: Served, grit: GritLM):
    tag = {
        "structures": [
            {"begin": f"<f={name}>", "schema": {"const": name}, "end": "</f>"} for name in "ab"
        ],
        "triggers": ["<f="],
    }
    formats = [
        {"response_format": {"type": "structural_tag", **tag}},
        {"structured_outputs": {"structural_tag": json.dumps({"type": "structural_tag", **tag})}},
    ]
    for change in formats:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "seed": 1}
        found = live.http.post("/v1/chat/completions", json=body | change)
        assert found.status_code == 200, found.text
    start = grit.grammar({"type": "structural_tag", **tag}).start
    for text, allowed in (
        ("So <f it is", True),
        ('So <f=a>"a"</f> and <f=b>"b"</f>.', True),
        ('<f=a>"b"</f>', False),
        ("<f=c>", False),
    ):
        matcher = start()._matcher
        ids = grit.tokenizer(text, add_special_tokens=False)["input_ids"]
        taken = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        assert taken == allowed, text


def test_a_hard_grammar_fails_alone(live: Served, monkeypatch: pytest.MonkeyPatch):
    from gritlm.lm.grammar import compiler

    monkeypatch.setitem(compiler._LIMITS, "max_lexer_states", 200)
    hard = {"guided_regex": "(.*a.{300})(.*b.{300})(.*d.{300})", "max_tokens": 300}
    with ThreadPoolExecutor(2) as pool:
        easy = pool.submit(ask, live, guided_choice=["yes"])
        error = refusal(live, **hard)
        assert text_of(easy.result()) == "yes"
    assert "cannot be enforced" in error["message"]


def test_compiling_holds_up_neither_chats_nor_the_event_loop(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    real = GrammarCompiler.compile
    begun = threading.Event()

    def slow(self: GrammarCompiler, output_format: OutputFormat) -> Grammar:
        begun.set()
        sleep(1.0)
        return real(self, output_format)

    monkeypatch.setattr(GrammarCompiler, "compile", slow)
    with ThreadPoolExecutor(1) as pool:
        formed = pool.submit(ask, live, guided_choice=["yes"])
        assert begun.wait(10)
        started = perf_counter()
        plain = live.http.post(CHAT, json={"messages": [USER], "max_tokens": 4})
        assert plain.status_code == 200
        assert live.http.get("/health").status_code == 200
        assert perf_counter() - started < 0.8
        assert not formed.done()
        assert text_of(formed.result()) == "yes"


def test_a_server_without_the_library_says_what_to_install(
    live: Served, monkeypatch: pytest.MonkeyPatch
):
    def missing(self: GritLM, output_format: object) -> Grammar:
        raise MissingExtraError("structured output needs llguidance; pip install 'x[grammar]'")

    monkeypatch.setattr(GritLM, "grammar", missing)
    error = refusal(live, guided_choice=["yes"])
    assert error["code"] == "unsupported_value"
    assert "[grammar]" in error["message"]
