"""Stand-ins for images and sounds in rows that are checked without a model.

The number of tokens of an image or a sound depends on the towers of a model, which are not loaded
to check rows. The content is decoded, so that a broken file is found, and a text stands in its
place.
"""

from __future__ import annotations

from dataclasses import replace

from gritlm.lm.media.files import LOCAL
from gritlm.lm.media.inputs import InputText, Part, Parts
from gritlm.lm.media.media_prompts import decode, kind_of
from gritlm.lm.media.senses import DecodedImage
from gritlm.train.data.examples import (
    ChatExample,
    EmbeddingExample,
    InstructedText,
    Row,
    ScoredExample,
)


def with_stand_ins(row: Row) -> Row:
    """Return a row with a text in the place of each image and sound, which is decoded.

    Args:
        row: the example; one of texts only is returned unchanged.

    Raises:
        InputError: an image or a sound is broken, or exceeds the limits.
    """
    if isinstance(row, EmbeddingExample):
        return EmbeddingExample(
            _text(row.query),
            tuple(map(_text, row.positives)),
            tuple(map(_text, row.negatives)),
        )
    if isinstance(row, ScoredExample):
        return replace(row, first=_text(row.first), second=_text(row.second))
    if isinstance(row, ChatExample) and row.has_media:
        turns = ({**turn, "content": _joined(turn["content"])} for turn in row.messages)
        return replace(row, messages=tuple(turns))
    return row


def _text(text: InstructedText) -> InstructedText:
    return replace(text, text=_joined(text.parts), parts=()) if text.parts else text


def _joined(content: str | Parts) -> str:
    return content if isinstance(content, str) else "".join(map(_stand_in, content))


def _stand_in(part: Part) -> str:
    """Return a text that shows the size of an image, or the length of a sound."""
    if isinstance(part, InputText):
        return part.text
    content = decode(part, LOCAL)
    if isinstance(content, DecodedImage):
        height, width = content.pixels.shape[:2]
        return f"[{kind_of(part)} of {width} x {height} pixels]"
    return f"[{kind_of(part)} of {content.seconds:.1f} s]"
