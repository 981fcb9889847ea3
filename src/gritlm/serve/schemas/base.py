"""Base models of requests and responses: strict types, null, and fields without effect.

Request fields without effect are named to the client in the header ``x-gritlm-ignored``. Models of
requests note them while they are validated; a route adds a field by :func:`ignore`, if it turns out
later that the field has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from starlette.datastructures import MutableHeaders

HEADER = "x-gritlm-ignored"
MOST_NAMES = 32  # in the header
MOST_CHARACTERS = 64  # of a name in the header
_MORE = "and-more"  # stands for the names that are left out
_NULL = {"type": "null"}
MAX_FIELDS = 256  # of an object: each unknown one takes time to report


class IgnoredFields:
    """Names of the fields of one request that are ignored, each once, in order of appearance.

    Args:
        strict: whether unknown fields are refused instead.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self._names: dict[str, None] = {}
        self._has_more = False

    def add(self, name: str) -> None:
        """Note a field that is ignored, without its place in the request."""
        if name in self._names:
            return
        if len(self._names) < MOST_NAMES:
            self._names[name] = None
        else:
            self._has_more = True

    def write(self, headers: MutableHeaders) -> None:
        """Set the header, unless nothing is ignored."""
        if self._names:
            more = [_MORE] if self._has_more else []
            headers[HEADER] = ", ".join([*map(_header_name, self._names), *more])


CURRENT: ContextVar[IgnoredFields] = ContextVar("fields of the request that are ignored")


def ignore(name: str) -> None:
    """Note that a field of the current request is ignored."""
    CURRENT.get().add(name)


def _header_name(name: str) -> str:
    """Return a name for the header: letters, digits and ``-._~``, others as percent escapes."""
    shown = quote(name[: MOST_CHARACTERS + 1], safe="")
    return shown if len(shown) <= MOST_CHARACTERS else shown[:MOST_CHARACTERS] + "..."


class _NoEffect:
    """Marker of fields that are accepted and have no effect."""


Hint = Annotated[
    Any, _NoEffect(), Field(description="Accepted for compatibility and ignored, whatever it is.")
]


def _describe_nulls(schema: dict[str, Any], model: type[RequestModel]) -> None:
    """Declare in a schema that optional fields may be null, and whether others are allowed."""
    schema["additionalProperties"] = _NULL if model.exact else True
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        if required or field.get("type") == "null" or _NULL in field.get("anyOf", ()):
            continue
        notes = {key: field[key] for key in ("title", "description", "default") if key in field}
        kind = {key: value for key, value in field.items() if key not in notes}
        if kind:
            schema["properties"][name] = {**notes, "anyOf": [kind, _NULL]}


def refuse_unknown_fields(schema: Any) -> None:
    """Change the OpenAPI schema to that of a strict server, which allows no unknown fields."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties") is True:
            schema["additionalProperties"] = _NULL
        for value in schema.values():
            refuse_unknown_fields(value)
    elif isinstance(schema, list):
        for value in schema:
            refuse_unknown_fields(value)


class RequestModel(BaseModel):
    """Base of request models: strict types, no NaN; null means left out.

    Unknown fields are ignored and named in the header of the response. A strict server, and
    validation outside of a route, refuse them.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra=_describe_nulls,
    )
    exact: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _keep_known(cls, data: Any, info: ValidationInfo) -> Any:
        data = _without_nulls(bounded(data), cls.model_fields)
        if isinstance(data, dict) and isinstance(info.context, IgnoredFields):
            return cls._without_ignored(data, info.context)
        return data

    @classmethod
    def _without_ignored(cls, data: dict[str, Any], ignored: IgnoredFields) -> dict[str, Any]:
        names, hints = _names_of(cls)
        for name in data:
            if name in hints or not (name in names or cls.exact or ignored.strict):
                ignored.add(name)
        if cls.exact or ignored.strict:
            return data
        return {name: value for name, value in data.items() if name in names}


class ExactRequestModel(RequestModel):
    """Base of requests of gritlm's own API, which refuses unknown fields on every server."""

    exact: ClassVar[bool] = True


@cache
def _names_of(model: type[BaseModel]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that a request may use for the fields of a model, and those of hints."""
    names: set[str] = set()
    hints: set[str] = set()
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        own = {choice for choice in choices if isinstance(choice, str)}
        names |= own
        if any(isinstance(each, _NoEffect) for each in field.metadata):
            hints |= own
    return frozenset(names), frozenset(hints)


class ResponseModel(BaseModel):
    """Base of response models. They describe responses in the schema and do not validate them."""

    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ResponseModel):
    error: ErrorDetail


def refused(type: str, message: str) -> PydanticCustomError:
    """Return a validation error whose message reaches the client unchanged."""
    return PydanticCustomError(type, "{message}", {"message": message})


def bounded(data: Any) -> Any:
    """Refuse an object with too many fields before its fields are validated."""
    if isinstance(data, dict) and len(data) > MAX_FIELDS:
        raise refused("too_many", f"{len(data):,} fields; expected at most {MAX_FIELDS}")
    return data


def _without_nulls(data: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Remove fields that are null, except for required ones, which are reported as wrong."""
    if not isinstance(data, dict):
        return data
    return {
        name: value
        for name, value in data.items()
        if value is not None or (name in fields and fields[name].is_required())
    }
