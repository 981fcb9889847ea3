"""JSON schemas whose objects have no other properties than the listed ones.

JSON Schema allows any further property by default, and a small model would go on inventing some.
Documents of a closed schema fit the original too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else")
# Keywords next to which other schemas may need properties that are not listed.
_COMBINED = ("allOf", "anyOf", "oneOf", "$ref", "not", "if", "dependentSchemas")
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames")
_NOTES = {"title", "description", "default", "examples", "deprecated", "$defs", "definitions"}
_NOTES |= {"$schema", "$id", "$comment", "discriminator"}


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects are closed, where they do not say otherwise.

    A schema that combines schemas of the same object is returned unchanged, as closing its parts
    would exclude each other's properties.

    Args:
        schema: the JSON schema; it is not changed.
    """
    if any(_combines(each) for each in _all_schemas(schema)):
        return dict(schema)
    return _closed(schema)


def _combines(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema constrains a value by several schemas."""
    combined = [keyword for keyword in _COMBINED if keyword in schema]
    return (bool(combined) and len(schema.keys() - _NOTES - {"type"}) > 1) or "allOf" in combined


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(schema)
    for keyword in _SCHEMAS_BY_NAME:
        if isinstance(named := schema.get(keyword), Mapping):
            found[keyword] = {name: _value(each) for name, each in named.items()}
    for keyword in _SCHEMA_LISTS:
        if isinstance(listed := schema.get(keyword), list):
            found[keyword] = [_value(each) for each in listed]
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            found[keyword] = _value(schema[keyword])
    return found | {"additionalProperties": False} if _can_close(schema) else found


def _value(schema: Any) -> Any:
    return _closed(schema) if isinstance(schema, Mapping) else schema


def _can_close(schema: Mapping[str, Any]) -> bool:
    listed = schema.get("properties")
    if not isinstance(listed, Mapping) or any(keyword in schema for keyword in _OPEN):
        return False
    required = schema.get("required", [])
    least = schema.get("minProperties", 0)
    knows_all = isinstance(required, list) and all(name in listed for name in required)
    return knows_all and isinstance(least, int) and least <= len(listed)


def _all_schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all schemas in it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for keyword in _SCHEMAS_BY_NAME:
        named = schema.get(keyword)
        for each in named.values() if isinstance(named, Mapping) else ():
            yield from _all_schemas(each)
    for keyword in _SCHEMA_LISTS:
        listed = schema.get(keyword)
        for each in listed if isinstance(listed, list) else ():
            yield from _all_schemas(each)
    for keyword in _SINGLE_SCHEMAS:
        yield from _all_schemas(schema.get(keyword))
