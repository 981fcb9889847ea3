"""Parts of an input: text, images and sound, in the forms that users pass.

The forms are those of sentence-transformers (``{"text": ..., "image": ..., "audio": ...}``), of
OpenAI's chats (``{"type": "image_url", ...}``, ``{"type": "input_audio", ...}``) and plain objects:
paths, bytes, PIL images, arrays. A string is text, wherever no key names it an image or a sound.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gritlm.errors import InputError, one_line
from gritlm.lm.media.limits import MediaRules
from gritlm.lm.media.sniff import kind_of_bytes, kind_of_path
from gritlm.lm.tokens import as_texts, document_texts, require_text

_SHOWN = 80  # characters of an input in a message


@dataclass(frozen=True)
class TextPart:
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


@dataclass(frozen=True)
class WebAddress:
    """Address of an image or a sound on the web, which is not fetched yet."""

    url: str


MediaPart = ImagePart | SoundPart
Part = TextPart | ImagePart | SoundPart
Parts = tuple[Part, ...]

_KEYS: dict[str, Literal["text", "image", "sound", "video"]] = {
    "text": "text",
    "image": "image",
    "audio": "sound",
    "video": "video",
}
# Types of content parts: those of OpenAI's chats, and of the chat templates of transformers.
_TYPES: dict[str, tuple[Literal["text", "image", "sound"], tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "input_text": ("text", ("text",)),
    "image": ("image", ("image", "url", "path", "base64")),
    "image_url": ("image", ("image_url",)),
    "input_image": ("image", ("image_url",)),
    "audio": ("sound", ("audio", "url", "path", "base64")),
    "audio_url": ("sound", ("audio_url",)),
    "input_audio": ("sound", ("input_audio",)),
}


def as_inputs(value: Any, rules: MediaRules, *, reads_media: bool) -> list[str | Parts]:
    """Return an input, or a sequence of inputs, as a list of texts and of parts.

    Args:
        value: an input in any form of :func:`as_parts`, or any iterable of inputs.
        rules: limits and permissions.
        reads_media: whether the model reads images or sound; one that does not takes no dicts.

    Raises:
        InputError: for an item of another form, with its index.
    """
    single = is_single(value)
    if isinstance(value, str) or not (single or hasattr(value, "__iter__")):
        return [*as_texts(value)]
    many = [value] if single else list(value)
    if all(isinstance(each, str) for each in many) or not (
        reads_media or any(map(names_media, many))
    ):
        return [*as_texts(value if single else many)]
    found: list[str | Parts] = []
    for index, each in enumerate(many):
        parts = as_parts(each, f"input {index} of {len(many)}", rules)
        text = joined_text(parts)
        found.append(parts if text is None else text)
    return found


def is_single(value: Any) -> bool:
    """Return whether a value is a single input, not a sequence of inputs."""
    return isinstance(value, str | bytes | bytearray | Mapping | Path | Part) or (
        hasattr(value, "getbands") or isinstance(value, np.ndarray) or hasattr(value, "detach")
    )


def names_media(value: Any) -> bool:
    """Return whether an input has an image, a sound or a video in it, as far as its form shows."""
    if isinstance(value, list | tuple):
        return any(map(names_media, value))
    if isinstance(value, Mapping):
        keys = {"image", "audio", "video", "array"}
        return bool(keys & set(value)) or value.get("type") in _TYPES
    if isinstance(value, bytes | bytearray):
        return kind_of_bytes(bytes(value[:64])) is not None
    return isinstance(value, Path | ImagePart | SoundPart) or hasattr(value, "getbands")


def document_inputs(corpus: Any) -> Any:
    """Return documents as inputs, with title and text joined by a space.

    Args:
        corpus: texts, inputs with images and sound, or dicts with ``text`` and, optionally,
            ``title``, as :func:`gritlm.lm.tokens.document_texts` takes them.

    Raises:
        InputError: for a document without a text, an image or a sound, with its index.
    """
    if is_single(corpus):
        return _document(corpus) if names_media(corpus) else document_texts(corpus)
    if not hasattr(corpus, "__iter__"):
        return document_texts(corpus)
    many = list(corpus)
    if not any(map(names_media, many)):
        return document_texts(many)
    return [_document(each) if names_media(each) else document_texts(each) for each in many]


def _document(document: Any) -> Any:
    """Return a document with images or sound, its title at the beginning of its text."""
    if not isinstance(document, Mapping) or not isinstance(document.get("title"), str):
        return document
    text = f"{document['title']} {document.get('text') or ''}".strip()
    rest = {key: value for key, value in document.items() if key not in ("title", "text")}
    return {"text": text, **rest}


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
    if not any(not isinstance(part, TextPart) or part.text for part in parts):
        raise InputError(f"{name} is empty; expected some text, an image or a sound")
    count = sum(not isinstance(part, TextPart) for part in parts)
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
        yield TextPart(value)
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
    return TextPart(value)


def _content_part(value: Mapping[str, Any], name: str, rules: MediaRules) -> Part:
    kind, keys = _TYPES.get(str(value["type"]), ("text", ()))
    found = [value[key] for key in keys if value.get(key) is not None]
    if not keys:
        raise InputError(
            f"{name} has the type {one_line(value['type'], limit=_SHOWN)!r}; expected "
            f"{', '.join(_TYPES)}"
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


def joined_text(parts: Sequence[Part]) -> str | None:
    """Return the text of parts that are texts only; None if an image or a sound is among them."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return "".join(texts) if len(texts) == len(parts) else None
