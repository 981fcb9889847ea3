"""Tokens of the images and sounds of an input, their places in a prompt, and prompts to embed."""

from __future__ import annotations

from collections.abc import Sequence

from gritlm.errors import InputError
from gritlm.lm.media.files import DecodedImage, DecodedSound, Kind, MediaRules
from gritlm.lm.media.images import decode_image
from gritlm.lm.media.inputs import ImagePart, InputText, MediaPart, Part
from gritlm.lm.media.senses import MediaTokens, Senses
from gritlm.lm.media.sounds import decode_sound
from gritlm.lm.tokens import EmbeddingFrame, Prompt, SegmentTokenizer


def kind_of(part: MediaPart) -> Kind:
    """Return the kind of a part."""
    return "image" if isinstance(part, ImagePart) else "sound"


def decode(part: MediaPart, rules: MediaRules) -> DecodedImage | DecodedSound:
    """Return the pixels of an image, or the samples of a sound.

    Args:
        part: the image or sound.
        rules: limits.

    Raises:
        InputError: for content that is broken or exceeds the limits.
    """
    if rules.decoder is not None:
        return rules.decoder(part, rules)
    return decode_image(part, rules) if isinstance(part, ImagePart) else decode_sound(part, rules)


def media_tokens(part: MediaPart, senses: Senses, rules: MediaRules) -> MediaTokens:
    """Return the tokens of an image or a sound.

    Args:
        part: the image or sound.
        senses: towers of the model.
        rules: limits.

    Raises:
        InputError: for a kind that the model does not read, or content that is broken, exceeds the
            limits, or is refused by the model's own processor.
    """
    if kind_of(part) not in senses.kinds:
        known = " and ".join(sorted(senses.kinds))
        raise InputError(f"{part.name} is a {kind_of(part)}, this model reads text and {known}")
    content = decode(part, rules)
    try:
        found = senses.read(content)
        if rules.spend is not None:
            rules.spend(found)
    except InputError as error:
        raise InputError(f"{part.name}: {error}") from None
    return found


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
        if isinstance(part, InputText):
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


def end_of_media(ids: Sequence[int], end: int, media: Sequence[MediaTokens]) -> int:
    """Return the end of a piece of a prompt that cuts no image and no sound.

    Args:
        ids: token ids of the prompt, or of its rest.
        end: number of tokens of the piece, at least.
        media: images and sounds of the prompt.
    """
    last = {number: each.placeholders[-1] for each in media for number in each.placeholders}
    before = next((number for number in reversed(ids[:end]) if number in last), None)
    if before is None or before == last[before]:
        return end
    return ids.index(last[before], end) + 1


def position_offset_of(ids: Sequence[int], media: Sequence[MediaTokens]) -> int:
    """Return the position after the first tokens of a prompt, minus their number.

    It is 0 unless the tokens of an image share positions, as with M-RoPE.

    Args:
        ids: the first tokens, which cut no image.
        media: images and sounds of the prompt.
    """
    first = {each.placeholders[0]: each for each in media if each.offsets_3M is not None}
    inside = [first[number] for number in ids if number in first]
    return sum(each.extent - len(each.placeholders) for each in inside)


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
