"""Prompts with images and sound, for embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from gritlm.errors import InputError
from gritlm.lm.media.decoding import kind_of, media_tokens
from gritlm.lm.media.inputs import MediaPart, Part, TextPart
from gritlm.lm.media.limits import MediaRules
from gritlm.lm.media.senses import MediaTokens, Senses
from gritlm.lm.tokens import EmbeddingFrame, Prompt, SegmentTokenizer


def embedding_prompt(
    parts: Sequence[Part],
    *,
    name: str,
    tokens: SegmentTokenizer,
    senses: Senses | None,
    frame: EmbeddingFrame,
    max_length: int,
    rules: MediaRules,
) -> Prompt:
    """Return the prompt of an input with images or sound. All tokens after the header are pooled.

    Args:
        parts: parts of the input.
        name: name of the input in messages.
        tokens: the tokenizer.
        senses: towers of the model; None for a model that reads text only.
        frame: tokens before and after the input.
        max_length: maximum number of tokens of the prompt, with header and special tokens.
        rules: limits on images and sound.

    Raises:
        InputError: for a part that the model does not read, or a prompt that is too long.
    """
    ids = list(frame.head)
    media = []
    first = frame.first
    for part in parts:
        if isinstance(part, TextPart):
            ids += tokens.pieces([part.text], first=first)[0]
        else:
            found = media_tokens(part, require_senses(senses, part), rules)
            media.append(found)
            ids += found.alone
        first = False
    ids += frame.tail
    if len(ids) > max_length:
        raise InputError(
            f"{name} has {len(ids)} tokens, {_count(media)} of them of images and sound, and the "
            f"maximum is {max_length}; pass less, or raise max_length"
        )
    return Prompt(ids, pooled=(frame.pooled_from, len(ids)), media=tuple(media))


def require_senses(senses: Senses | None, part: MediaPart) -> Senses:
    """Return the senses of a model, or refuse a part that it cannot read.

    Raises:
        InputError: for a model that reads text only.
    """
    if senses is None:
        raise InputError(
            f"{part.name} is not read: this model reads text only, no {kind_of(part)}; load a "
            "model for it, such as SmolVLM or Qwen2.5-VL"
        )
    return senses


def _count(media: Sequence[MediaTokens]) -> int:
    return sum(len(each.alone) for each in media)
