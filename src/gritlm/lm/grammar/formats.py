"""Formats of structured output: JSON, JSON schemas, regular expressions, choices, grammars.

A format is the source of a grammar. It becomes a grammar in the dialect of Lark that llguidance
compiles: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gritlm.errors import InputError, did_you_mean, one_line, require_libraries
from gritlm.lm.grammar.closed_schemas import closed

MAX_SOURCE = 131_072  # characters of a schema, an expression or a grammar
MAX_CHOICES = 4096

# llguidance 1.9 overflows its stack, which ends the process, at integers next to -2**63.
_LEAST = -(2.0**62)
_NEGATIVE = re.compile(r"-\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")

# One space after a comma or colon is optional, and there is no other whitespace between tokens: a
# model cannot fill its answer with it.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


@dataclass(frozen=True)
class OutputFormat:
    """Format that a generated text has to follow.

    Attributes:
        lark: its grammar.
    """

    lark: str

    def __post_init__(self) -> None:
        if len(self.lark) > MAX_SOURCE + 1024:
            raise too_large("the grammar", len(self.lark))
        for number in _NEGATIVE.findall(self.lark):
            if float(number) < _LEAST:
                raise InputError(
                    f"the output format has the number {one_line(number, limit=40)}; expected at "
                    f"least {_LEAST:.1e}"
                )

    @classmethod
    def json_object(cls) -> OutputFormat:
        """Return the format of any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def json_schema(cls, schema: object, *, strict: bool = True) -> OutputFormat:
        """Return the format of a JSON document that fits a schema.

        Args:
            schema: the JSON schema.
            strict: whether to refuse a schema with a keyword that cannot be enforced; otherwise
                such keywords are ignored.

        Raises:
            InputError: for a schema that is no JSON object, or one that is too large.
        """
        return cls(f"start: {json_rule(schema, strict=strict)}\n")

    @classmethod
    def regex(cls, pattern: str) -> OutputFormat:
        """Return the format of a text that a regular expression matches as a whole.

        Args:
            pattern: the expression, in the syntax of Rust's ``regex`` without look-around.

        Raises:
            InputError: for an empty expression, or one that is too large.
        """
        _require_source(pattern, "the regular expression")
        escaped = _escaped_slashes(pattern).replace("\n", "\\n")
        return cls(f"start: TEXT\nTEXT: /{escaped}/\n")

    @classmethod
    def choice(cls, texts: Sequence[str]) -> OutputFormat:
        """Return the format of a text that is one of several.

        Raises:
            InputError: for no texts, too many, or a text that is empty.
        """
        if isinstance(texts, str) or not 1 <= len(texts) <= MAX_CHOICES:
            raise InputError(
                f"choice has {len(texts)} texts; expected a list of 1 to {MAX_CHOICES}"
            )
        if not all(isinstance(text, str) and text for text in texts):
            raise InputError("choice has an empty text; expected texts of one or more characters")
        alternatives = " | ".join(quoted(text) for text in texts)
        return cls(f"start: TEXT\nTEXT: {alternatives}\n")

    @classmethod
    def grammar(cls, source: str) -> OutputFormat:
        """Return the format of a text that a context-free grammar derives.

        Args:
            source: the grammar, in the syntax of Lark or of llama.cpp (GBNF, with ``::=``).

        Raises:
            InputError: for an empty grammar, one that is too large, or invalid GBNF.
        """
        _require_source(source, "the grammar")
        return cls(_lark_of_gbnf(source) if "::=" in source else source)

    @classmethod
    def structural_tag(cls, tag: Mapping[str, Any]) -> OutputFormat:
        """Return the format of free text in which parts with a schema stand between two tags.

        Args:
            tag: ``structures``, a list of ``{"begin": ..., "schema": {...}, "end": ...}``, and
                ``triggers``: texts, one of which begins each ``begin``. From a trigger on, the text
                has to be one of its structures.

        Raises:
            InputError: for other fields, a structure without a trigger, or an invalid schema.
        """
        if "format" in tag or not {"structures", "triggers"} <= tag.keys():
            raise InputError(
                f"the structural tag has the fields {one_line(sorted(tag), limit=80)}; expected "
                "'structures', a list of {begin, schema, end}, and 'triggers', a list of texts"
            )
        return cls(_lark_of_tags(tag["structures"], tag["triggers"]))

    @classmethod
    def of(cls, response_format: Mapping[str, Any]) -> OutputFormat | None:
        """Return the format of OpenAI's ``response_format``; None for plain text.

        Besides ``text``, ``json_object`` and ``json_schema`` the types ``regex``, ``choice`` and
        ``grammar`` are known, with the value in a field of the same name, and ``structural_tag`` of
        vLLM.

        Raises:
            InputError: for an unknown type, or a value that is invalid.
        """
        kind = response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return cls.json_object()
        if kind == "json_schema":
            found = response_format.get(kind)
            found = found if isinstance(found, Mapping) else {}
            return cls.json_schema(found.get("schema"), strict=found.get("strict") is not False)
        if kind == "structural_tag":
            return cls.structural_tag({k: v for k, v in response_format.items() if k != "type"})
        makers = {"regex": cls.regex, "choice": cls.choice, "grammar": cls.grammar}
        if kind not in makers:
            known = ("text", "json_object", "json_schema", "structural_tag", *makers)
            raise InputError(f"response_format has type {kind!r}{did_you_mean(str(kind), known)}")
        return makers[kind](response_format.get(kind, ""))


def require() -> None:
    """Check that the library of grammars is installed.

    Raises:
        MissingExtraError: with the extra that installs it.
    """
    require_libraries(("llguidance",), what="structured output needs", extra="grammar")


def json_rule(schema: object, *, strict: bool) -> str:
    """Return the part of a grammar that derives JSON documents of a schema.

    Objects have only the listed properties, unless their schema allows others explicitly.

    Args:
        schema: the JSON schema.
        strict: whether to refuse keywords that cannot be enforced, instead of ignoring them.

    Raises:
        InputError: for a schema that is no JSON object, or one that is too large.
    """
    if not isinstance(schema, Mapping):
        raise InputError(
            f"the schema is {one_line(repr(schema), limit=60)}; expected a JSON object"
        )
    options = _LAYOUT if strict else _LAYOUT | {"lenient": True, "coerce_one_of": True}
    try:
        text = json.dumps({**closed(schema), "x-guidance": options}, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError) as error:
        raise InputError(f"the schema is no JSON ({one_line(error, limit=100)})") from None
    if len(text) > MAX_SOURCE:
        raise too_large("the schema", len(text))
    return f"%json {text}"


def quoted(text: str) -> str:
    """Return a text as a string of a grammar."""
    return json.dumps(text, ensure_ascii=False)


def too_large(name: str, size: int) -> InputError:
    """Return the error for a source with too many characters."""
    return InputError(f"{name} has {size:,} characters; expected at most {MAX_SOURCE:,}")


def _require_source(source: object, name: str) -> None:
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"{name} is empty; expected text")
    if len(source) > MAX_SOURCE:
        raise too_large(name, len(source))


def _lark_of_tags(structures: Any, triggers: Any) -> str:
    """Return the grammar of structures; those with the same trigger share its rule."""
    if not _are_texts(triggers) or not isinstance(structures, list | tuple) or not structures:
        raise InputError("'structures' and 'triggers' of a structural tag are lists with items")
    if len(structures) > MAX_CHOICES or len(triggers) > MAX_CHOICES:
        raise InputError(
            f"{len(structures)} structures and {len(triggers)} triggers; expected at most "
            f"{MAX_CHOICES} of each"
        )
    bodies: list[list[str]] = [[] for _ in triggers]
    rules = []
    for number, each in enumerate(structures):
        if not isinstance(each, Mapping) or not _are_texts([each.get("begin"), each.get("end")]):
            raise InputError(
                f"structure {number} is {one_line(repr(each), limit=80)}; expected texts 'begin' "
                "and 'end', and a 'schema'"
            )
        begin = each["begin"]
        place = next((n for n, text in enumerate(triggers) if begin.startswith(text)), None)
        if place is None:
            raise InputError(
                f"structure {number} begins with {one_line(repr(begin), limit=80)}, which no "
                "trigger begins; add one"
            )
        rest = begin.removeprefix(triggers[place])
        head = quoted(rest) if rest else ""
        schema = json_rule(each.get("schema"), strict=True)
        rules.append(f"body_{number}: {head} {schema} {quoted(each['end'])}\n")
        bodies[place].append(f"body_{number}")
    used = [n for n, each in enumerate(bodies) if each]
    for n in used:
        rules.append(f"tag_{n}: trigger_{n} ({' | '.join(bodies[n])})\n")
        rules.append(f"trigger_{n}[lazy]: TEXT {quoted(triggers[n])}\n")
    tags = " | ".join(f"tag_{n}" for n in used)
    return "".join([f"start: ({tags})* TEXT\nTEXT: /(.|\\n)*/\n", *rules])


def _are_texts(values: Any) -> bool:
    is_list = isinstance(values, list | tuple) and bool(values)
    return is_list and all(isinstance(each, str) and each for each in values)


def _escaped_slashes(pattern: str) -> str:
    """Return an expression whose slashes are escaped, as between the slashes of a grammar."""
    found = []
    escaped = False
    for character in pattern:
        found.append("\\/" if character == "/" and not escaped else character)
        escaped = character == "\\" and not escaped
    return "".join(found)


def _lark_of_gbnf(source: str) -> str:
    require()
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(source))
    except Exception as error:  # of a parser in Python: also RecursionError
        raise InputError(
            f"the grammar is no valid GBNF ({one_line(error, limit=200)}); repair it"
        ) from None
