"""Formats of structured output in a request, compiled off the event loop and the model's thread."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from gritlm.errors import InputError, MissingExtraError, ModelError
from gritlm.lm.grammar.compiler import Grammar
from gritlm.lm.grammar.formats import OutputFormat
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tools.call_format import HERMES, CallFormat, calls_format
from gritlm.lm.tools.definitions import ToolChoice
from gritlm.serve.errors import invalid
from gritlm.serve.schemas.structured_output import (
    ResponseFormat,
    StructuredOutputs,
    StructuredRequest,
)
from gritlm.serve.service import Service

MakeFormat = Callable[[], OutputFormat]


async def compile_grammar(
    service: Service,
    model: GritLM,
    body: StructuredRequest,
    calls: ToolChoice | None = None,
    call_format: CallFormat = HERMES,
) -> Grammar | None:
    """Return the grammar that the generated text has to follow; None for any text.

    Args:
        service: the service.
        model: the model that generates the text.
        body: the request.
        calls: the tool calls that the answer may have; None for no calls.
        call_format: format of these calls.

    Raises:
        ApiError: for more than one format, or a format that cannot be compiled.
    """
    formats = _formats(body)
    if len(formats) > 1:
        raise invalid(
            f"{' and '.join(formats)}: give one output format", param=next(reversed(formats))
        )
    if not formats and calls is None:
        return None
    param, make = next(iter(formats.items()), ("tools", None))

    def compiled() -> Grammar:
        answer = None if make is None else make()
        found = answer if calls is None else calls_format(calls, answer, call_format)
        assert found is not None, "there is a format or a tool"
        try:
            return model.grammar(found)
        except InputError:
            if calls is not None:
                _require_parameters(model, calls)
            raise

    try:
        return await service.run_in_grammar_thread(compiled)
    except InputError as error:
        raise invalid(f"'{param}': {error}", param=param) from None
    except (MissingExtraError, ModelError) as error:
        raise invalid(f"'{param}': {error}", param=param, code="unsupported_value") from None


def _require_parameters(model: GritLM, calls: ToolChoice) -> None:
    """Compile the parameters of each tool alone.

    Raises:
        InputError: for the first tool whose parameters cannot be compiled, with its name.
    """
    for tool in calls.tools:
        try:
            model.grammar(OutputFormat.json_schema(tool.parameters, strict=tool.strict))
        except InputError as error:
            raise InputError(f"the parameters of the tool '{tool.name}': {error}") from None


def _formats(body: StructuredRequest) -> dict[str, MakeFormat]:
    """Return the formats of a request by the name of their field."""
    found: dict[str, MakeFormat] = {}
    if body.response_format is not None and body.response_format.type != "text":
        found["response_format"] = partial(_openai_format, body.response_format)
    if body.structured_outputs is not None:
        asked = _vllm_formats(body.structured_outputs)
        found |= {f"structured_outputs.{name}": make for name, make in asked.items()}
    guided = StructuredOutputs.model_construct(
        json_=body.guided_json,
        regex=body.guided_regex,
        choice=body.guided_choice,
        grammar=body.guided_grammar,
    )
    return found | {f"guided_{name}": make for name, make in _vllm_formats(guided).items()}


def _vllm_formats(outputs: StructuredOutputs) -> dict[str, MakeFormat]:
    found: dict[str, MakeFormat] = {}
    if outputs.json_ is not None:
        found["json"] = partial(_schema, outputs.json_)
    if outputs.json_object:
        found["json_object"] = OutputFormat.json_object
    if outputs.regex is not None:
        found["regex"] = partial(OutputFormat.regex, outputs.regex)
    if outputs.choice is not None:
        found["choice"] = partial(OutputFormat.choice, outputs.choice)
    if outputs.structural_tag is not None:
        found["structural_tag"] = partial(_tag, outputs.structural_tag)
    if outputs.grammar is not None:
        found["grammar"] = partial(OutputFormat.grammar, outputs.grammar)
    return found


def _openai_format(response_format: ResponseFormat) -> OutputFormat:
    if response_format.type == "json_object":
        return OutputFormat.json_object()
    if response_format.type == "structural_tag":
        return OutputFormat.structural_tag(
            response_format.model_dump(
                by_alias=True, include={"structures", "triggers"}, exclude_none=True
            )
        )
    named = response_format.json_schema
    if named is None:
        raise InputError("the type json_schema needs the field json_schema with a schema")
    return OutputFormat.json_schema(named.schema_, strict=named.strict is not False)


def _tag(text: str) -> OutputFormat:
    """Return the format of a structural tag, which vLLM takes as a text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("the text is no JSON object; expected 'structures' and 'triggers'")
    return OutputFormat.structural_tag({k: v for k, v in found.items() if k != "type"})


def _schema(schema: dict[str, Any] | str) -> OutputFormat:
    """Return the format of a JSON schema, which vLLM takes as a text too."""
    if isinstance(schema, dict):
        return OutputFormat.json_schema(schema)
    try:
        return OutputFormat.json_schema(json.loads(schema))
    except (ValueError, RecursionError):
        raise InputError("the text is no JSON; expected a JSON schema") from None
