"""Parts of an input: text, images and sound, in the forms that users pass.

The forms are those of sentence-transformers (``{"text": ..., "image": ..., "audio": ...}``), of
OpenAI's chats (``{"type": "image_url", ...}``, ``{"type": "input_audio", ...}``) and plain objects:
paths, bytes, PIL images, arrays. A string is text, wherever no key names it an image or a sound.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gritlm.errors import InputError, one_line
from gritlm.lm.media.files import MediaRules, WebAddress, kind_of_bytes, kind_of_path
from gritlm.lm.tokens import require_text

_SHOWN = 80  # characters of an input in a message


@dataclass(frozen=True)
class InputText:
    """Text of an input."""

    text: str


@dataclass(frozen=True, eq=False)
class ImagePart:
    """Image of an input, before it is decoded.

    Attributes:
        source: a path, an address, bytes of a file, a PIL image, or pixels as an array.
        name: name of the image in messages.
    """

    source: Any
    name: str


@dataclass(frozen=True, eq=False)
class SoundPart:
    """Sound of an input, before it is decoded.

    Attributes:
        source: a path, an address, bytes of a file, or samples (N,) or (C, N) as an array.
        name: name of the sound in messages.
        rate: samples per second of an array; None for a file.
    """

    source: Any
    name: str
    rate: int | None = None


MediaPart = ImagePart | SoundPart
Part = InputText | ImagePart | SoundPart
Parts = tuple[Part, ...]

_KEYS: dict[str, Literal["text", "image", "sound", "video"]] = {
    "text": "text",
    "image": "image",
    "audio": "sound",
    "video": "video",
}
# Types of content parts: those of OpenAI's chats, and of the chat templates of transformers.
CONTENT_TYPES: dict[str, tuple[Literal["text", "image", "sound"], tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "input_text": ("text", ("text",)),
    "image": ("image", ("image", "url", "path", "base64")),
    "image_url": ("image", ("image_url",)),
    "input_image": ("image", ("image_url",)),
    "audio": ("sound", ("audio", "url", "path", "base64")),
    "audio_url": ("sound", ("audio_url",)),
    "input_audio": ("sound", ("input_audio",)),
}


def as_parts(value: Any, name: str, rules: MediaRules) -> Parts:
    """Return the parts of an input, which are not decoded yet.

    Args:
        value: a text, an image, a sound, a dict of them, a content part, or a list of these.
        name: name of the input in messages.
        rules: limits and permissions.

    Raises:
        InputError: for an input of another form, an empty one, or one that the rules refuse.
    """
    parts = tuple(_parts(value, name, rules))
    if not any(not isinstance(part, InputText) or part.text for part in parts):
        raise InputError(f"{name} is empty; expected some text, an image or a sound")
    count = sum(not isinstance(part, InputText) for part in parts)
    if count > rules.most_parts:
        raise InputError(
            f"{name} has {count} images and sounds, at most {rules.most_parts} are read; split it"
        )
    return parts


def _parts(value: Any, name: str, rules: MediaRules) -> Iterator[Part]:
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            if isinstance(each, list | tuple):
                raise InputError(f"part {index} of {name} is a list; expected a single part")
            yield from _parts(each, f"part {index} of {name}", rules)
    elif isinstance(value, Mapping):
        yield from _of_mapping(value, name, rules)
    elif isinstance(value, str):
        require_text(value, name)
        yield InputText(value)
    elif isinstance(value, Part):
        yield value
    else:
        yield _of_object(value, name, rules)


def _of_mapping(value: Mapping[str, Any], name: str, rules: MediaRules) -> Iterator[Part]:
    if "type" in value:
        yield _content_part(value, name, rules)
        return
    if set(value) == {"array", "sampling_rate"}:
        yield _sound(value, name, rules)
        return
    unknown = [key for key in value if key not in _KEYS]
    if unknown or not value:
        keys = ", ".join(one_line(key, limit=_SHOWN) for key in value) or "no key"
        raise InputError(f"{name} is a dict with {keys}; expected text, image or audio")
    for key, content in value.items():
        kind = _KEYS[key]
        for each in content if isinstance(content, list | tuple) else [content]:
            yield _of_kind(kind, each, name, rules)


def _of_kind(kind: str, value: Any, name: str, rules: MediaRules) -> Part:
    if kind == "video":
        raise InputError(f"{name} has a video, which is not read; pass its frames as images")
    if kind == "image":
        return ImagePart(_source(value, f"the image of {name}", rules), f"the image of {name}")
    if kind == "sound":
        return _sound(value, f"the sound of {name}", rules)
    if not isinstance(value, str):
        raise InputError(f"the text of {name} is {type(value).__name__}; expected a text")
    require_text(value, f"the text of {name}")
    return InputText(value)


def _content_part(value: Mapping[str, Any], name: str, rules: MediaRules) -> Part:
    kind, keys = CONTENT_TYPES.get(str(value["type"]), ("text", ()))
    found = [value[key] for key in keys if value.get(key) is not None]
    if not keys:
        raise InputError(
            f"{name} has the type {one_line(value['type'], limit=_SHOWN)!r}; expected "
            f"{', '.join(CONTENT_TYPES)}"
        )
    if len(found) != 1:
        raise InputError(f"{name} has the type {value['type']!r} without {' or '.join(keys)}")
    content = found[0]
    if "url" in str(value["type"]) or value["type"] == "input_image":
        content = content.get("url") if isinstance(content, Mapping) else content
        return _of_url(kind, content, name, rules)
    if value["type"] == "input_audio":
        content = content.get("data") if isinstance(content, Mapping) else content
    if isinstance(content, str) and (value["type"] == "input_audio" or "base64" in value):
        content = _base64(content, name, rules)
    return _of_kind(kind, content, name, rules)


def _of_url(kind: str, url: Any, name: str, rules: MediaRules) -> Part:
    """Return the part of an address: a data URL, or one of the web."""
    if not isinstance(url, str) or not url.startswith(("data:", "http://", "https://")):
        raise InputError(
            f"{name} has the address {one_line(url, limit=_SHOWN)!r}; expected a data: URL, or "
            "http:// or https:// where these are allowed"
        )
    return _of_kind(kind, url, name, rules)


def _of_object(value: Any, name: str, rules: MediaRules) -> Part:
    """Return the part of an object whose type or first bytes tell an image from a sound."""
    if isinstance(value, Path):
        kind = kind_of_path(value)
    elif isinstance(value, bytes | bytearray):
        kind = kind_of_bytes(bytes(value[:64]))
    elif hasattr(value, "getbands"):
        kind = "image"
    else:
        array = _array(value)
        if array is None:
            raise InputError(
                f"{name} is {type(value).__name__}; expected a text, an image (path, bytes, PIL), "
                "a sound or a list of these"
            )
        kind = "image" if array.ndim == 3 else None
    if kind is None:
        raise InputError(
            f"{name} is neither recognised as an image nor as a sound; name it: "
            "{'image': ...}, {'audio': ...} or {'audio': {'array': ..., 'sampling_rate': ...}}"
        )
    return _of_kind(kind, value, name, rules)


def _sound(value: Any, name: str, rules: MediaRules) -> SoundPart:
    if isinstance(value, Mapping):
        array = _array(value.get("array"))
        rate = value.get("sampling_rate")
        if array is None or not isinstance(rate, int) or isinstance(rate, bool):
            raise InputError(
                f"{name} is a dict with {', '.join(map(str, value)) or 'no key'}; expected an "
                "array and its sampling_rate, a whole number"
            )
        return SoundPart(array, name, rate)
    if (array := _array(value)) is not None:
        raise InputError(
            f"{name} is an array without a rate; pass {{'array': ..., 'sampling_rate': 16000}}"
        )
    return SoundPart(_source(value, name, rules), name)


def _source(value: Any, name: str, rules: MediaRules) -> Any:
    """Return the source of an image or a sound, after a check of what it names."""
    if isinstance(value, bytes | bytearray):
        return _bounded(bytes(value), name, rules)
    if hasattr(value, "getbands"):
        return value
    if isinstance(value, str) and value.startswith("data:"):
        return _data_url(value, name, rules)
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        if not rules.web:
            raise InputError(
                f"{name} is on the web ({one_line(value, limit=_SHOWN)}), which is not allowed "
                "here; send its bytes, as a data: URL"
            )
        return WebAddress(value)
    if isinstance(value, str | Path):
        if not rules.files:
            raise InputError(
                f"{name} names a file ({one_line(value, limit=_SHOWN)}), which is not allowed "
                "here; send its bytes, as a data: URL"
            )
        return Path(value)
    if (array := _array(value)) is not None:
        return array
    raise InputError(
        f"{name} is {type(value).__name__}; expected a path, bytes, a data: URL or an array"
    )


def _data_url(url: str, name: str, rules: MediaRules) -> bytes:
    head, comma, content = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InputError(
            f"{name} is a data: URL that begins with {one_line(head, limit=_SHOWN)!r}; expected "
            "data:image/png;base64,..."
        )
    return _base64(content, name, rules)


def _base64(content: str, name: str, rules: MediaRules) -> bytes:
    if len(content) > 4 * (rules.most_bytes // 3 + 1):
        raise _too_large(len(content) * 3 // 4, name, rules)
    try:
        return _bounded(base64.b64decode(content, validate=True), name, rules)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not valid base64: {one_line(error)}") from None


def _bounded(content: bytes, name: str, rules: MediaRules) -> bytes:
    if len(content) > rules.most_bytes:
        raise _too_large(len(content), name, rules)
    return content


def _too_large(size: int, name: str, rules: MediaRules) -> InputError:
    return InputError(f"{name} has {size:,} bytes, at most {rules.most_bytes:,} are read")


def _array(value: Any) -> np.ndarray[Any, Any] | None:
    """Return an array or a tensor as a numpy array; None for other objects."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return np.asarray(value.detach().cpu().numpy())
    return None
