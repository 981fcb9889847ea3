"""Parts of a message or of an input to embed: text, images and sounds, as OpenAI's API has them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from gritlm.serve.schemas.base import Hint, RequestModel, refused
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
