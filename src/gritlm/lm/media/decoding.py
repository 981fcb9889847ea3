"""Decoding of the images and sounds of an input, and their tokens."""

from __future__ import annotations

from gritlm.errors import InputError
from gritlm.lm.media.images import decode_image
from gritlm.lm.media.inputs import ImagePart, MediaPart
from gritlm.lm.media.limits import MediaRules
from gritlm.lm.media.senses import DecodedImage, DecodedSound, Kind, MediaTokens, Senses
from gritlm.lm.media.sounds import decode_sound


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
        return senses.read(content)
    except InputError as error:
        raise InputError(f"{part.name}: {error}") from None
