"""Output formats: every text of any model fits its format, bad formats are one clear error."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import Any

import jsonschema
import pytest
import torch
from pydantic import BaseModel

from gritlm import GritLM, SamplingParams
from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.grammar import compiler, formats
from gritlm.lm.grammar.closed_schemas import closed
from gritlm.lm.grammar.compiler import GrammarCompiler
from gritlm.lm.grammar.formats import MAX_SOURCE, OutputFormat
from tests import tiny


class Person(BaseModel):
    """As an application describes its data."""

    age: int
    pets: list[str]


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "bee", 7, None]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": PERSON,
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,5}-\\d{2}$"},
    "date": {"type": "string", "format": "date"},
    "alternatives": {"anyOf": [{"type": "null"}, {"const": {"x": [1, 2]}}, {"enum": ["ü", '"']}]},
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 2]}},
        "additionalProperties": False,
    },
    "nested": {
        "$defs": {
            "leaf": {
                "type": "object",
                "properties": {"on": {"type": "boolean"}},
                "required": ["on"],
                "additionalProperties": False,
            }
        },
        "type": "array",
        "items": {"$ref": "#/$defs/leaf"},
        "minItems": 1,
        "maxItems": 2,
    },
    "one of": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"type": "string", "const": kind}, key: {"type": "boolean"}},
                "required": ["kind", key],
                "additionalProperties": False,
            }
            for kind, key in (("cat", "purrs"), ("dog", "barks"))
        ]
    },
}


@pytest.fixture(scope="module")
def grit(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    folder = tiny.folder(tmp_path_factory.mktemp("llama"), max_position_embeddings=512)
    return GritLM(folder, dtype="float32", device="cpu")


def schema_of(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("seed", range(3))
def test_random_weights_write_what_fits_the_schema(grit: GritLM, name: str, seed: int):
    text = grit.chat(
        "Hello",
        response_format=schema_of(SCHEMAS[name]),
        temperature=1.0,
        seed=seed,
        max_new_tokens=300,
    )
    jsonschema.validate(json.loads(text), SCHEMAS[name])


def test_any_object_is_json_when_it_ends(grit: GritLM):
    for seed in range(3):
        text = grit.chat(
            "Hello",
            response_format={"type": "json_object"},
            temperature=1.0,
            seed=seed,
            max_new_tokens=40,
        )
        assert text.startswith("{")
        assert "\n" not in text


@pytest.mark.parametrize("pattern", ["[a-z]{3}/[0-9]{2}", "(ab|cd)+x", r"\d{2}\/\d", "ü|é"])
def test_a_regular_expression_is_matched_as_a_whole(grit: GritLM, pattern: str):
    text = grit.chat(
        "Hello", response_format={"type": "regex", "regex": pattern}, temperature=1.0, seed=1
    )
    assert re.fullmatch(pattern, text)


def test_a_choice_is_one_of_its_texts_and_ends_with_it(grit: GritLM):
    texts = ["yes", "no, thank you", 'a "word"\nand a line']
    grammar = grit.grammar({"type": "choice", "choice": texts})
    found = {grit.chat("Hi", mask=grammar.start, temperature=2.0, seed=seed) for seed in range(12)}
    assert found <= set(texts)
    assert len(found) > 1


@pytest.mark.parametrize(
    "source",
    [
        'start: "x" NUMBER ("," NUMBER)~2\nNUMBER: /[0-9]/\n',
        'root ::= "x" num "," num "," num\nnum ::= [0-9]\n',
    ],
)
def test_a_grammar_of_lark_or_llama_cpp_is_followed(grit: GritLM, source: str):
    text = grit.chat("Hi", response_format={"type": "grammar", "grammar": source}, temperature=1.0)
    assert re.fullmatch(r"x\d,\d,\d", text)


def test_streams_and_documents_follow_a_grammar_too(grit: GritLM):
    wanted = schema_of(PERSON)
    pieces = grit.chat("Hi", response_format=wanted, stream=True, temperature=1.0, seed=1)
    whole = grit.chat("Hi", response_format=wanted, temperature=1.0, seed=1, max_new_tokens=256)
    assert "".join(pieces) == whole


@torch.inference_mode()
def test_the_greedy_text_of_a_grammar_is_the_likeliest_allowed_token_each_time(grit: GritLM):
    text = grit.chat("Hi", response_format={"type": "regex", "regex": "[0-9]{6}"})
    ids = grit.chat_ids("Hi")
    digits = {
        token: each
        for token, each in grit.tokenizer.get_vocab().items()
        if re.fullmatch("[0-9]+", token)
    }
    expected = ""
    while left := 6 - len(expected):
        logits_V = grit.lm.logits(torch.tensor([ids]), keep=1)[0, -1]
        allowed = [token for token in digits if len(token) <= left]
        best = max(allowed, key=lambda token: float(logits_V[digits[token]]))
        expected += best
        ids = [*ids, digits[best]]
    assert text == expected


def test_other_settings_are_applied_to_the_tokens_that_are_allowed(grit: GritLM):
    digit = grit.tokenizer.convert_tokens_to_ids("7")
    text = grit.chat(
        "Hi", response_format={"type": "regex", "regex": "[0-9]{3}"}, logit_bias={digit: 100.0}
    )
    assert text == "777"
    full = grit.chat(
        "Hi", response_format={"type": "choice", "choice": ["a", "b"]}, min_new_tokens=9, top_k=1
    )
    assert full in ("a", "b")


def test_a_pydantic_model_is_a_schema(grit: GritLM):
    schema = Person.model_json_schema()
    text = grit.chat("Hi", response_format=schema_of(schema), max_new_tokens=60, temperature=0.0)
    assert text.startswith('{"age":')


OPEN = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
SHUT = OPEN | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OPEN, SHUT),
        ({"items": OPEN}, {"items": SHUT}),
        ({"anyOf": [OPEN, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        ({"$defs": {"x": OPEN}, "$ref": "#/$defs/x"}, {"$defs": {"x": SHUT}, "$ref": "#/$defs/x"}),
        ({"properties": {"properties": OPEN}}, None),
        (OPEN | {"additionalProperties": True}, OPEN | {"additionalProperties": True}),
        (OPEN | {"patternProperties": {}}, OPEN | {"patternProperties": {}}),
        (OPEN | {"required": ["b"]}, OPEN | {"required": ["b"]}),
        (OPEN | {"minProperties": 2}, OPEN | {"minProperties": 2}),
        ({"allOf": [OPEN, {"required": ["b"]}]}, {"allOf": [OPEN, {"required": ["b"]}]}),
        (OPEN | {"anyOf": [OPEN]}, OPEN | {"anyOf": [OPEN]}),
        ({"$ref": "#/$defs/x", **OPEN}, {"$ref": "#/$defs/x", **OPEN}),
        ({"type": "object"}, {"type": "object"}),
        ({"properties": 3, "anyOf": 4, "items": [OPEN]}, None),
    ],
)
def test_objects_have_the_listed_properties_alone(schema: dict[str, Any], expected: object):
    found = closed(schema)
    if expected is not None:
        assert found == expected
    assert schema == json.loads(json.dumps(schema))


def test_a_model_does_not_invent_properties(grit: GritLM):
    for seed in range(5):
        text = grit.chat("Hi", response_format=schema_of(OPEN), temperature=1.0, seed=seed)
        assert list(json.loads(text)) == ["a"]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "foo"}, "foo"),
        ({"not": {"type": "integer"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"$ref": "http://example.com/x.json"}, "example.com"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "(a"}, "\\(a"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_one_clear_line(
    grit: GritLM, schema: dict[str, Any], reason: str
):
    with pytest.raises(InputError, match=reason) as caught:
        grit.grammar(schema_of(schema))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("strict", [None, True, False])
def test_keywords_that_cannot_be_enforced_are_ignored_only_when_asked(grit: GritLM, strict: object):
    schema = {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2}
    if strict is False:
        text = grit.chat("Hi", response_format=schema_of(schema, strict=False), temperature=1.0)
        assert isinstance(json.loads(text), list)
    else:
        with pytest.raises(InputError, match="uniqueItems"):
            grit.grammar(schema_of(schema, strict=strict))


@pytest.mark.parametrize(
    ("response_format", "reason"),
    [
        ({"type": "xml"}, "xml"),
        ({"type": "json_schema"}, "JSON object"),
        ({"type": "regex", "regex": ""}, "empty"),
        ({"type": "regex", "regex": "(a"}, "unclosed"),
        ({"type": "choice", "choice": []}, "0 texts"),
        ({"type": "choice", "choice": ["a", ""]}, "empty text"),
        ({"type": "choice", "choice": "ab"}, "list"),
        ({"type": "grammar", "grammar": 'start: "a" | nothing'}, "nothing"),
        ({"type": "grammar", "grammar": 'root ::= "a'}, "GBNF"),
        ({"type": "text"}, "plain text"),
    ],
)
def test_a_format_that_is_none_is_refused(grit: GritLM, response_format: dict[str, Any], reason):
    with pytest.raises(InputError, match=reason):
        grit.grammar(response_format)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "response_format",
    [
        schema_of({"const": -(2**63)}),
        schema_of({"enum": [-(2**63) + 1, "a"]}),
        schema_of({"type": "integer", "minimum": -1e19, "maximum": -9.3e18}),
        {"type": "grammar", "grammar": 'start: %json {"const": -9223372036854775808}'},
    ],
)
def test_a_number_at_which_the_library_would_crash_is_refused(
    grit: GritLM, response_format: dict[str, Any]
):
    with pytest.raises(InputError, match="has the number -"):
        grit.grammar(response_format)


BOMBS = {
    "values": schema_of({"enum": [f"value {n}" for n in range(100_000)]}),
    "depth": schema_of(nested(400)),
    "recursion": schema_of(nested(20_000)),
    "products": schema_of(
        {"allOf": [{"anyOf": [{"properties": {f"{a}{b}": {}}} for b in "xyzu"]} for a in range(12)]}
    ),
    "size": {"type": "regex", "regex": "a" * (MAX_SOURCE + 1)},
    "parentheses": {"type": "grammar", "grammar": f"start: {'(' * 50_000}"},
    "GBNF": {"type": "grammar", "grammar": f"root ::= {'(' * 50_000}"},
    "expression": {"type": "regex", "regex": "(" * 50_000 + ")" * 50_000},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_soon(grit: GritLM, name: str):
    started = perf_counter()
    with pytest.raises(InputError):
        grit.grammar(BOMBS[name])
    assert perf_counter() - started < 10


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "regex", "regex": "(ab|cd){100000}"},
        schema_of({"type": "string", "pattern": "^((ab|cd){1000}){1000}$"}),
        schema_of({"type": "array", "items": {"type": "boolean"}, "minItems": 100_000}),
        schema_of({"type": "string", "maxLength": 1_000_000}),
        {"type": "regex", "regex": "(a|b)*a(a|b){40}"},
        schema_of({"properties": {f"p{n}": {"type": "integer"} for n in range(3_000)}}),
    ],
)
def test_large_formats_cost_no_more_than_their_text(grit: GritLM, response_format: dict[str, Any]):
    started = perf_counter()
    grit.chat("Hi", response_format=response_format, max_new_tokens=20, temperature=1.0, seed=1)
    assert perf_counter() - started < 10


def test_a_grammar_that_becomes_too_complex_ends_its_own_text_alone(
    grit: GritLM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(compiler._LIMITS, "max_lexer_states", 200)
    hard = {"type": "regex", "regex": "(.*a.{300})(.*b.{300})(.*c.{300})"}
    with pytest.raises(InputError, match="cannot be enforced"):
        grit.chat("Hi", response_format=hard, max_new_tokens=400, temperature=1.0, seed=1)
    wide = schema_of({"anyOf": [{"type": "object", "required": [f"p{n}"]} for n in range(3_000)]})
    with pytest.raises(InputError, match="3000 items"):
        grit.chat("Hi", response_format=wide, temperature=1.0, seed=1)
    assert grit.chat("Hi", response_format={"type": "choice", "choice": ["a"]}) == "a"


def test_grammars_are_kept_within_bounds(grit: GritLM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler, "_MOST_GRAMMARS", 3)
    made = GrammarCompiler(grit.tokenizer, grit.lm.vocabulary_size, grit.end_ids)
    kept = [made.compile(OutputFormat.choice([f"text {n}"])) for n in range(5)]
    assert made.compile(OutputFormat.choice(["text 4"])) is kept[4]
    assert made.compile(OutputFormat.choice(["text 0"])) is not kept[0]
    assert len(made._cache) == 3
    monkeypatch.setattr(compiler, "_MOST_CHARACTERS", 100)
    made.compile(OutputFormat.choice(["x" * 60]))
    assert made._characters <= 100


def test_other_threads_run_while_a_grammar_is_compiled(grit: GritLM):
    properties = {f"q{n}": {"type": "integer"} for n in range(3_000)}
    gaps: list[float] = []
    done = threading.Event()

    def tick() -> None:
        last = perf_counter()
        while not done.wait(0.005):
            gaps.append(perf_counter() - last)
            last = perf_counter()

    ticking = threading.Thread(target=tick)
    ticking.start()
    started = perf_counter()
    grit.grammar(schema_of({"properties": properties}))
    took = perf_counter() - started
    done.set()
    ticking.join()
    assert max(gaps) < max(0.1, took / 2)


def test_threads_share_a_grammar(grit: GritLM):
    grammar = grit.grammar(schema_of(PERSON))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(200):
                constraint = grammar.start()
                logits_V = torch.zeros(grit.lm.vocabulary_size)
                constraint.apply(logits_V)
                constraint.accept(int(logits_V.argmax()))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_logits_beyond_the_vocabulary_are_never_drawn(grit: GritLM):
    constraint = grit.grammar({"type": "choice", "choice": ["a"]}).start()
    logits_V = torch.zeros(grit.lm.vocabulary_size + 100)
    constraint.apply(logits_V)
    assert not torch.isfinite(logits_V[grit.lm.vocabulary_size :]).any()


def test_a_model_without_an_end_token_says_so(tmp_path: Path):
    made = GritLM(tiny.folder(tmp_path), dtype="float32", device="cpu")
    made.tokenizer.eos_token = None
    made.lm.causal.generation_config.eos_token_id = None
    with pytest.raises(RuntimeError, match="no end token"):
        made.grammar({"type": "json_object"})


def test_a_missing_library_names_its_extra(grit: GritLM, monkeypatch: pytest.MonkeyPatch):
    real = formats.require_libraries

    def absent(names: Any, **options: str) -> None:
        real(("no_such_library", *names), **options)

    monkeypatch.setattr(formats, "require_libraries", absent)
    with pytest.raises(MissingExtraError, match="grammar"):
        GrammarCompiler(grit.tokenizer, grit.lm.vocabulary_size, grit.end_ids)


def test_the_library_is_not_imported_before_it_is_used():
    import subprocess

    code = "import sys, gritlm.lm.gritlm; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sampling_parameters_carry_a_grammar(grit: GritLM):
    grammar = grit.grammar(OutputFormat.choice(["a b", "c"]))
    params = SamplingParams(20, temperature=1.0, seed=2, mask=grammar.start)
    assert grit.chat("Hi", sampling=params) == grit.chat("Hi", sampling=params) in ("a b", "c")
