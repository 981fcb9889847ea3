"""Decoding of sound, within limits: mono, float32, at the rate that a model takes.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
from fractions import Fraction
from importlib.util import find_spec
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import InputError, MissingExtraError, one_line
from gritlm.lm.media.files import DecodedSound, MediaRules, file_bytes
from gritlm.lm.media.inputs import SoundPart
from gritlm.lm.media.wav import is_wav, read_wav

_RATES = (1_000, 768_000)
_MOST_RATE = 96_000  # of a compressed file of the longest length; shorter ones may have more
_BLOCK = 2**20  # samples of all channels that are decoded together
_CROSSINGS = 6  # zero crossings of the low-pass filter on each side
_ROLLOFF = 0.99  # of the lower half rate
# Largest term of the ratio of two rates. All usual rates fit; others are rounded by 1e-4 or less.
_TERM = 500


def decode_sound(part: SoundPart, rules: MediaRules) -> DecodedSound:
    """Return the samples of a sound, its channels averaged.

    Args:
        part: the sound.
        rules: limits.

    Raises:
        InputError: for a sound that is broken, empty, silent or too long.
        MissingExtraError: when the library for its format is not installed.
    """
    if part.rate is not None:
        samples = _as_floats(np.asarray(part.source), part.name)
        rate = part.rate
    else:
        content = file_bytes(part.source, part.name, rules)
        if is_wav(content):
            samples, rate = read_wav(content, part.name)
        else:
            samples, rate = _read_other(content, part.name, rules)
    _require_audible(samples, rate, part.name, rules)
    mono = samples if samples.ndim == 1 else samples.mean(axis=0)
    return DecodedSound(np.ascontiguousarray(mono, dtype=np.float32), rate)


def most_samples(rules: MediaRules) -> int:
    """Return the most samples of a sound within the limits."""
    return ceil(rules.longest_sound * _RATES[1])


def resampled(sound: DecodedSound, rate: int) -> DecodedSound:
    """Return a sound at another rate, low-pass filtered.

    The filter is a windowed sinc, as in torchaudio.

    Args:
        sound: the sound.
        rate: samples per second.
    """
    import torch  # here: a process that only decodes has no use for it
    from torch.nn import functional as F

    if sound.rate == rate:
        return sound
    ratio = Fraction(rate, sound.rate).limit_denominator(_TERM)
    old, new = ratio.denominator, ratio.numerator
    cutoff = min(old, new) * _ROLLOFF
    width = ceil(_CROSSINGS * old / cutoff)
    tap_K = torch.arange(-width, width + old, dtype=torch.float64) / old
    phase_M = torch.arange(0, -new, -1, dtype=torch.float64) / new
    time_MK = ((phase_M[:, None] + tap_K) * cutoff).clamp(-_CROSSINGS, _CROSSINGS)
    window_MK = torch.cos(time_MK * torch.pi / _CROSSINGS / 2) ** 2
    filter_MK = (torch.sinc(time_MK) * window_MK * cutoff / old).float()
    padded_N = F.pad(torch.from_numpy(sound.samples), (width, width + old))
    made_MS = F.conv1d(padded_N[None, None], filter_MK[:, None], stride=old)[0]
    length = -(-new * len(sound.samples) // old)
    return DecodedSound(np.ascontiguousarray(made_MS.T.flatten()[:length].numpy()), rate)


def _as_floats(array: Any, name: str) -> NDArray[np.float32]:
    """Return samples (N,) or (C, N) as floats; integers are divided by their range."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise InputError(
            f"{name} is an array of shape {array.shape} and type {array.dtype}; expected samples, "
            "or channels of samples"
        )
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind == "u":
        half = 2 ** (8 * array.dtype.itemsize - 1)
        return (array.astype(np.float32) - half) / half
    return array.astype(np.float32) / 2 ** (8 * array.dtype.itemsize - 1)


def _read_other(content: bytes, name: str, rules: MediaRules) -> tuple[NDArray[np.float32], int]:
    """Return the samples (N,) of a file that is not WAV, read by soundfile, channels averaged."""
    if find_spec("soundfile") is None:
        raise MissingExtraError(
            f"{name} is not a WAV file; other formats need soundfile (pip install soundfile), or "
            "convert it: ffmpeg -i FILE out.wav"
        )
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate = int(file.samplerate)
            _require_rate(rate, name)
            _require_frames(file.frames, rate, name, rules)
            # No more than shows that it is too long: a small file can hold hours of silence, in
            # many channels, which are averaged block by block.
            blocks = file.blocks(
                max(1, _BLOCK // file.channels),
                frames=ceil((rules.longest_sound + 1) * min(rate, _MOST_RATE)),
                dtype="float32",
                always_2d=True,
            )
            found = [block_NC.mean(axis=1) for block_NC in blocks]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of libsndfile, in several types
        raise InputError(f"{name} is not a sound that is read here: {one_line(error)}") from None
    samples = np.concatenate(found) if found else np.zeros(0, dtype=np.float32)
    _require_frames(len(samples), rate, name, rules)
    return samples, rate


def _require_audible(samples: NDArray[np.float32], rate: int, name: str, rules: MediaRules) -> None:
    _require_rate(rate, name)
    if not samples.size:
        raise InputError(f"{name} is empty; expected some samples")
    _require_length(samples.shape[-1] / rate, name, rules)
    if not np.isfinite(samples).all():
        raise InputError(f"{name} has samples that are not finite; save it again")
    if not samples.any():
        raise InputError(f"{name} is silent: all samples are 0")


def _require_rate(rate: int, name: str) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"{name} has {rate} samples a second; expected {_RATES[0]} to {_RATES[1]}")


def _require_frames(frames: int, rate: int, name: str, rules: MediaRules) -> None:
    """Require that a sound is within the limits, before its samples are in memory."""
    _require_length(frames / rate, name, rules)
    most = ceil(rules.longest_sound * _MOST_RATE)
    if frames > most:
        raise InputError(
            f"{name} has {frames:,} samples, at most {most:,} are read; convert it: "
            "ffmpeg -i FILE -ar 48000 out.wav"
        )


def _require_length(seconds: float, name: str, rules: MediaRules) -> None:
    if seconds > rules.longest_sound:
        raise InputError(
            f"{name} is {seconds:.0f} s long, at most {rules.longest_sound:.0f} s are read; cut it"
        )
