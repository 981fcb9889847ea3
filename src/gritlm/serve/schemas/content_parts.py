"""Parts of a message or of an input to embed: text, images and sounds, as OpenAI's API has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from gritlm.serve.schemas.base import CURRENT, Hint, RequestModel, refused
from gritlm.serve.schemas.common import only

MAX_PARTS = 1024  # of a message
PART_TYPES = ("text", "image_url", "input_audio", "audio_url")


def _as_address(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class MediaUrl(RequestModel):
    """Address of an image or a sound: a data: URL, or one of the web where the server allows it."""

    url: str = Field(min_length=1)
    detail: Hint = None


Address = Annotated[MediaUrl, BeforeValidator(_as_address)]


class InputAudio(RequestModel):
    """Bytes of a sound in base64. Their own format counts, whatever ``format`` names."""

    data: str = Field(min_length=1)
    format: Annotated[str, Field(max_length=16)] | None = None


class ContentPart(RequestModel):
    """A part of the content of a message: the field of its type holds it."""

    type: Annotated[str, only(*PART_TYPES)]
    text: str | None = None
    image_url: Address | None = None
    input_audio: InputAudio | None = None
    audio_url: Address | None = None
    cache_control: Hint = None

    @model_validator(mode="after")
    def _require_one_kind(self) -> ContentPart:
        present = [name for name in PART_TYPES if getattr(self, name) is not None]
        if present != [self.type]:
            fields = " and ".join(present) or "none of its fields"
            raise refused(
                "unsupported_value",
                f"a part of the type '{self.type}' with {fields}; expected the field '{self.type}'",
            )
        return self

    @property
    def is_media(self) -> bool:
        """Whether the part is an image or a sound."""
        return self.text is None

    def as_part(self) -> dict[str, Any]:
        """Return the part as the library takes it."""
        content = getattr(self, self.type)
        value = content if isinstance(content, str) else content.model_dump(include={"url", "data"})
        return {"type": self.type, self.type: value}


def _part(name: str, field: dict[str, Any]) -> dict[str, Any]:
    others = {other: {"type": "null"} for other in PART_TYPES if other != name}
    return {
        "type": "object",
        "properties": {"type": {"enum": [name]}, name: field, **others},
        "required": ["type", name],
        "additionalProperties": True,
    }


def _object(field: str, **others: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field: _SOME_TEXT, **others},
        "required": [field],
        "additionalProperties": True,
    }


_SOME_TEXT = {"type": "string", "minLength": 1}
_ADDRESS = {"anyOf": [_SOME_TEXT, _object("url")]}
_FORMAT = {"anyOf": [{"type": "string", "maxLength": 16}, {"type": "null"}]}
PART_SCHEMA = {
    "anyOf": [
        _part("text", {"type": "string"}),
        _part("image_url", _ADDRESS),
        _part("input_audio", _object("data", format=_FORMAT)),
        _part("audio_url", _ADDRESS),
    ]
}


def as_parts(value: Any) -> Any:
    """Return the content of a message as a list of parts.

    Raises:
        PydanticCustomError: for content that is neither a text nor a list.
    """
    if isinstance(value, str):
        return [ContentPart(type="text", text=value)]
    if value is None:
        raise refused(
            "unsupported_value",
            "null, which only messages of the assistant with tool_calls may have; expected text",
        )
    if not isinstance(value, list):
        raise refused("wrong_type", "expected text, or a list of parts")
    return value


_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": PART_SCHEMA, "maxItems": MAX_PARTS},
    ]
}
Content = Annotated[
    list[ContentPart],
    Field(fail_fast=True, max_length=MAX_PARTS),
    BeforeValidator(as_parts),
    WithJsonSchema(_CONTENT),
]


@dataclass(frozen=True)
class PartsInput:
    """Input to embed that has an image or a sound: its parts, as the library takes them."""

    parts: tuple[dict[str, Any], ...]

    @property
    def characters(self) -> int:
        """Characters of its texts."""
        return sum(len(part.get("text", "")) for part in self.parts)


OBJECT_FIELDS = ("text", "image", "audio", "content")
_OBJECT_TEXT = {"anyOf": [_SOME_TEXT, {"type": "null"}]}
INPUT_OBJECT_SCHEMA = {
    "type": "object",
    "properties": {
        **dict.fromkeys(OBJECT_FIELDS[:3], _OBJECT_TEXT),
        "content": {
            "anyOf": [
                {"type": "array", "items": PART_SCHEMA, "minItems": 1, "maxItems": MAX_PARTS},
                {"type": "null"},
            ]
        },
    },
    "additionalProperties": False,
}


def input_of_object(value: dict[str, Any], name: str) -> str | PartsInput:
    """Return an input to embed that a client sent as an object.

    Args:
        value: ``text``, ``image`` and ``audio`` as in Jina's API, the last two as addresses or
            base64; or ``content``, a list of content parts.
        name: name of the input in messages.

    Raises:
        PydanticCustomError: for an object of another form.
    """
    fields = {key: each for key, each in value.items() if each is not None}
    if not fields or not fields.keys() <= set(OBJECT_FIELDS):
        others = [repr(key[:40]) for key in fields if key not in OBJECT_FIELDS] or ["no field"]
        raise refused(
            "unsupported_value",
            f"{name} has {', '.join(others[:3])}; expected {', '.join(OBJECT_FIELDS)}",
        )
    if "content" in fields:
        if len(fields) > 1:
            raise refused("unsupported_value", f"{name} has 'content' and other fields; give one")
        return input_of_parts(_content(fields["content"], name))
    parts: list[dict[str, Any]] = []
    for key, each in fields.items():
        if not isinstance(each, str) or not each:
            raise refused("wrong_type", f"{name} has a '{key}' that is no text; expected some")
        parts.append(_jina_part(key, each))
    return _joined(parts)


def input_of_parts(parts: list[ContentPart]) -> str | PartsInput:
    """Return the input of content parts: a text, if no image and no sound is among them."""
    return _joined([part.as_part() for part in parts])


def _joined(parts: list[dict[str, Any]]) -> str | PartsInput:
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return PartsInput(tuple(parts))


def _content(value: Any, name: str) -> list[ContentPart]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_PARTS:
        raise refused(
            "wrong_type", f"{name} has a 'content' that is no list of 1 to {MAX_PARTS} parts"
        )
    try:
        return _PARTS.validate_python(value, context=CURRENT.get(None))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise refused("wrong_type", f"{name}: content.{place}: {first['msg']}") from None


def _jina_part(key: str, value: str) -> dict[str, Any]:
    if key == "text":
        return {"type": "text", "text": value}
    if value.startswith(("data:", "http://", "https://")):
        return {"type": f"{key}_url", f"{key}_url": {"url": value}}
    return {"type": key, "base64": value}


_PARTS = TypeAdapter(list[ContentPart])
