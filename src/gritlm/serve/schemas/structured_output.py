"""Request fields of structured output, under the names of OpenAI's API and of vLLM."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gritlm.lm.grammar.formats import MAX_CHOICES, MAX_SOURCE
from gritlm.serve.schemas.base import Hint, RequestModel
from gritlm.serve.schemas.common import null_only

_NoTags = null_only("expected 'structures' and 'triggers' in its place")

Schema = Annotated[dict[str, Any], Field(description="A JSON schema.")]
Source = Annotated[str, Field(min_length=1, max_length=MAX_SOURCE)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES),
]


class JsonSchemaFormat(RequestModel):
    """A JSON schema with its name; the answer always follows the schema.

    With ``strict`` false, keywords that cannot be enforced are ignored instead of refused.
    """

    name: str | None = None
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class Structure(RequestModel):
    """A JSON document of a schema between two texts."""

    begin: str = Field(min_length=1)
    schema_: Schema = Field(alias="schema")
    end: str = Field(min_length=1)


class ResponseFormat(RequestModel):
    """Format of an answer; ``structural_tag`` is vLLM's, with structures and triggers."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    structures: Annotated[list[Structure], Field(max_length=MAX_CHOICES)] | None = None
    triggers: Choices | None = None
    format: Annotated[None, _NoTags] = None


class StructuredOutputs(RequestModel):
    """One of the formats, in vLLM's words."""

    json_: Schema | Source | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: Source | None = None
    choice: Choices | None = None
    grammar: Source | None = Field(None, description="Lark, or GBNF of llama.cpp.")
    structural_tag: Source | None = Field(
        None, description="JSON text of an object with structures and triggers."
    )
    disable_any_whitespace: Hint = None
    disable_additional_properties: Hint = None
    whitespace_pattern: Hint = None


class StructuredRequest(RequestModel):
    """Base of requests whose generated text may have to follow a format; one at most."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | Source | None = None
    guided_regex: Source | None = None
    guided_choice: Choices | None = None
    guided_grammar: Source | None = Field(None, description="Lark, or GBNF of llama.cpp.")
    guided_decoding_backend: Hint = None
    guided_whitespace_pattern: Hint = None
