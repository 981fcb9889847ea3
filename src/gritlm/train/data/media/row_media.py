"""Images and sounds in rows: values of several forms as parts, with paths next to the data file.

A value is what :func:`gritlm.lm.media.inputs.as_parts` takes, or a ``{"bytes", "path"}`` of the
``datasets`` library. A text names its images by placeholders, as LLaVA and VLM2Vec write them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from gritlm.errors import InputError
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import InputText, Part, Parts, as_parts
from gritlm.train.config import SourceConfig
from gritlm.train.data.fields import RecordFields

Key = Literal["image", "audio"]
# Keys of a record with the images and sounds of its conversation, and their placeholders.
LISTS: Mapping[str, Key] = {
    "image": "image",
    "images": "image",
    "audio": "audio",
    "audios": "audio",
}
_PLACEHOLDERS: Mapping[Key, str] = {"image": "<image>", "audio": "<audio>"}
_NUMBERED = r"<\|image_\d+\|>|<image>"  # of VLM2Vec
_INPUT_KEYS = frozenset({"text", "image", "audio", "video", "type", "bytes", "path"})
_STORED = frozenset({"bytes", "path"})
_TEXT_TYPES = frozenset({"text", "input_text"})


def is_media(value: Any) -> bool:
    """Return whether a value of a record is an input with images or sounds, as far as it shows."""
    if isinstance(value, Mapping):
        return bool(_INPUT_KEYS & set(value))
    return isinstance(value, bytes) or hasattr(value, "getbands")


def parts_of(fields: RecordFields, value: Any, name: str) -> Parts:
    """Return the parts of an input. Files are checked to exist, and are not read.

    Args:
        fields: record of the input.
        value: a dict such as ``{"text": ..., "image": ...}``, or an image.
        name: name of the input, for errors.

    Raises:
        InputError: for an input of another form, an address that is not allowed, or a missing file.
    """
    rules = MediaRules(web=fields.source.media_web)
    plain = _plain(value)
    try:
        return tuple(_placed(fields, part, name) for part in as_parts(plain, name, rules))
    except InputError as error:
        text = str(error)
        raise (error if text.startswith(fields.place) else fields.error(text)) from None


def single(fields: RecordFields, key: Key, value: Any, name: str) -> Part:
    """Return the part of an image or a sound.

    Args:
        fields: record of the image or sound.
        key: ``image`` or ``audio``.
        value: a path, a data: URL, bytes, or another form of a single image or sound.
        name: its name, for errors.

    Raises:
        InputError: as :func:`parts_of`.
    """
    found = parts_of(fields, {key: value}, name)
    if len(found) != 1:
        raise fields.wrong(value, name, "a single one")
    return found[0]


def with_images(fields: RecordFields, text: str, images: Sequence[Part], name: str) -> Parts:
    """Return a text with its images in the place of ``<|image_1|>`` or ``<image>``.

    Without a placeholder the images come first.

    Raises:
        InputError: the text has another number of placeholders than there are images.
    """
    if not images:
        return (InputText(text),) if text else ()
    pieces = re.split(f"\n?(?:{_NUMBERED})\n?", text)
    if len(pieces) == 1:
        pieces = [*[""] * len(images), text]
    if len(pieces) != len(images) + 1:
        raise fields.error(
            f"{name} has {len(pieces) - 1} placeholders of images, the row has {len(images)} "
            "images; expected one for each, or none"
        )
    found: list[Part] = []
    for piece, image in zip(pieces, [*images, None], strict=True):
        found += [InputText(piece)] if piece else []
        found += [] if image is None else [image]
    return tuple(found)


class AttachedMedia:
    """Images and sounds that a record lists for its conversation, in the order of their use.

    Args:
        fields: the record; its keys ``image``, ``images``, ``audio`` and ``audios`` hold one or
            several each.

    Raises:
        InputError: for an image or sound of another form, or a missing file.
    """

    def __init__(self, fields: RecordFields) -> None:
        self._fields = fields
        self._waiting: dict[Key, list[Part]] = {}
        self._listed: dict[Key, int] = {}
        self._used: dict[Key, int] = {"image": 0, "audio": 0}
        for name, key in LISTS.items():
            value = fields.values.get(name)
            many = value if isinstance(value, list | tuple) else [value]
            for index, each in enumerate(many if name in fields.values else []):
                part = single(fields, key, each, f"{name}[{index}]")
                self._waiting.setdefault(key, []).append(part)
        self._listed = {key: len(parts) for key, parts in self._waiting.items()}

    def of_text(self, text: str) -> str | Parts:
        """Return a text with parts in the place of its placeholders; itself if it has none."""
        names = {_PLACEHOLDERS[key]: key for key in self._listed}
        if not any(name in text for name in names):
            return text
        parts: list[Part] = []
        pattern = "|".join(map(re.escape, names))
        for piece in re.split(f"\n?({pattern})\n?", text):
            if piece in names:
                parts += self._next(names[piece])
            elif piece:
                parts.append(InputText(piece))
        return tuple(parts)

    def of_parts(self, content: Sequence[Any], name: str) -> Parts:
        """Return the parts of a list of content parts; an ``{"type": "image"}`` takes the next."""
        parts: list[Part] = []
        for index, each in enumerate(content):
            part = f"{name}.content[{index}]"
            key = _empty_part(each)
            if isinstance(each, str):
                parts.append(InputText(self._fields.string(each, part)))
            elif isinstance(each, Mapping) and each.get("type", "text") in _TEXT_TYPES:
                parts.append(InputText(self._fields.string(each.get("text"), part)))
            elif key is not None:
                parts += self._next(key)
            else:
                parts += parts_of(self._fields, each, part)
        return tuple(parts)

    def require_used(self) -> None:
        """Raise an error unless each listed image and sound has its place in the conversation."""
        for key, used in self._used.items():
            listed = self._listed.get(key, 0)
            if used != listed:
                raise self._fields.error(
                    f"the conversation has {used} places of {_plural(key)} "
                    f"({_PLACEHOLDERS[key]}), the row lists {listed}; expected one for each"
                )

    def _next(self, key: Key) -> list[Part]:
        self._used[key] += 1
        waiting = self._waiting.get(key)
        return [waiting.pop(0)] if waiting else []


def has_media(content: Any) -> bool:
    """Return whether a list of content parts has other parts than texts."""
    return isinstance(content, list | tuple) and any(
        isinstance(part, Mapping) and part.get("type", "text") not in _TEXT_TYPES
        for part in content
    )


def _plural(key: Key) -> str:
    return {"image": "images", "audio": "sounds"}[key]


def _empty_part(part: Any) -> Key | None:
    """Return the kind of a content part that has no content of its own, as TRL writes it."""
    if not isinstance(part, Mapping):
        return None
    filled = {key for key, value in part.items() if value is not None}
    kinds: dict[Any, Key] = {"image": "image", "audio": "audio"}
    return kinds.get(part.get("type")) if filled == {"type"} else None


def _plain(value: Any) -> Any:
    """Return a value without nulls, and with stored files as their bytes or their path."""
    if _is_stored(value):
        found = _content(value)
        return Path(found) if isinstance(found, str) else found
    if isinstance(value, Mapping):
        known = {key: each for key, each in value.items() if each is not None}
        return {key: _content(each) for key, each in known.items()}
    return value


def _content(value: Any) -> Any:
    if _is_stored(value):
        return value.get("bytes") or value.get("path")
    return [*map(_content, value)] if isinstance(value, list | tuple) else value


def _is_stored(value: Any) -> bool:
    """Return whether a value is a file as the ``datasets`` library stores it."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= _STORED


def _placed(fields: RecordFields, part: Part, name: str) -> Part:
    """Return a part with the path of its file, which must exist."""
    if isinstance(part, InputText) or not isinstance(part.source, Path):
        return part
    path = part.source.expanduser()
    if not path.is_absolute():
        folder = folder_of(fields.source)
        if folder is None:
            raise fields.error(
                f"{name} names the file {path}, and the rows come from the hub; set media_folder, "
                "or hold the files in the rows"
            )
        path = folder / path
    if not path.is_file():
        raise fields.error(f"{name}: there is no file {path}; repair the path, or set media_folder")
    return replace(part, source=path)


def folder_of(source: SourceConfig) -> Path | None:
    """Return the folder of relative paths in rows; None for rows of the hub."""
    if source.media_folder is not None:
        return Path(source.media_folder).expanduser()
    path = Path(source.path).expanduser()
    if path.is_file():
        return path.parent
    return path if path.is_dir() else None
