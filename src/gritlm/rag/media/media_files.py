"""Images and sounds of files: a PNG image, or windows of a sound as WAV files, with their times."""

from __future__ import annotations

from math import ceil

from gritlm.errors import InputError
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.images import decode_image, png_of
from gritlm.lm.media.inputs import ImagePart, SoundPart
from gritlm.lm.media.senses import DecodedSound
from gritlm.lm.media.sounds import decode_sound, resampled
from gritlm.lm.media.wav import wav_of
from gritlm.rag.types import MediaKind, MediaPiece, MediaPlace

_RATE = 16_000  # of stored sounds, at most: the rate of the models
_LEAST = 0.1  # seconds of a window; a shorter rest at the end of a sound is left out


def read(kind: MediaKind, data: bytes, rules: MediaRules, *, seconds: float) -> list[MediaPiece]:
    """Return the image of a file, or the windows of its sound that are not silent.

    Args:
        kind: kind of the file.
        data: bytes of the file.
        rules: limits.
        seconds: length of a window, in seconds.

    Raises:
        InputError: for a file that is broken, silent, or beyond the limits.
        MissingExtraError: when the library for its format is not installed.
    """
    if kind == "image":
        image = decode_image(ImagePart(data, "the image"), rules)
        return [MediaPiece(png_of(image), MediaPlace("image"))]
    sound = decode_sound(SoundPart(data, "the sound"), rules)
    if sound.rate > _RATE:
        sound = resampled(sound, _RATE)
    return windows(sound, seconds)


def windows(sound: DecodedSound, seconds: float) -> list[MediaPiece]:
    """Return the windows of a sound that are not silent.

    Args:
        sound: the sound.
        seconds: length of a window, in seconds.

    Raises:
        InputError: for a length of less than a tenth of a second.
    """
    if not seconds >= _LEAST:
        raise InputError(f"windows of {seconds} s are too short; expected {_LEAST} or more")
    size = round(seconds * sound.rate)
    length = len(sound.samples)
    count = max(1, ceil((length - _LEAST * sound.rate) / size))
    pieces = []
    for number in range(count):
        start = number * size
        end = min(start + size, length)
        samples = sound.samples[start:end]
        if not samples.any():
            continue
        place = MediaPlace("sound", start=start / sound.rate, end=end / sound.rate)
        pieces.append(MediaPiece(wav_of(DecodedSound(samples, sound.rate)), place))
    return pieces
