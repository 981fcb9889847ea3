"""WAV files: integers of 8, 16, 24 and 32 bits, floats of 32 and 64 bits.

Shapes: N samples of a channel, C channels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import InputError
from gritlm.lm.media.files import DecodedSound

_PCM = 1
_FLOAT = 3
_EXTENSIBLE = 0xFFFE
_HEADER = 12
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}


@dataclass(frozen=True)
class WavFormat:
    """Format of the samples of a WAV file.

    Attributes:
        kind: 1 for integers, 3 for floats.
        channels: number of channels.
        rate: samples per second.
        bits: bits of a sample.
    """

    kind: int
    channels: int
    rate: int
    bits: int


def is_wav(content: bytes) -> bool:
    """Return whether a file begins as a WAV file."""
    return content[:4] == b"RIFF" and content[8:12] == b"WAVE"


def read_wav(content: bytes, name: str) -> tuple[NDArray[np.float32], int]:
    """Return the samples (C, N) of a WAV file, and its rate.

    Args:
        content: the file.
        name: name of the sound in messages.

    Raises:
        InputError: for a file that is damaged, or has samples of another format.
    """
    form: WavFormat | None = None
    at = _HEADER
    while at + 8 <= len(content):
        label, size = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + size]
        if label == b"fmt ":
            form = _format(body, name)
        elif label == b"data":
            if form is None:
                break
            return _samples(body, form), form.rate
        at += 8 + size + size % 2
    raise InputError(f"{name} is a damaged WAV file: it has no samples; save it again")


def _format(body: bytes, name: str) -> WavFormat:
    if len(body) < 16:
        raise InputError(f"{name} is a damaged WAV file: its format is cut; save it again")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 26:
        (kind,) = struct.unpack_from("<H", body, 24)
    if bits not in _WIDTHS.get(kind, ()) or not channels or not rate:
        raise InputError(
            f"{name} is a WAV file of format {kind} with {bits} bits, {channels} channels and "
            f"{rate} Hz; expected integers of 8 to 32 bits, or floats"
        )
    return WavFormat(kind, channels, rate, bits)


def _samples(body: bytes, form: WavFormat) -> NDArray[np.float32]:
    width = form.bits // 8
    whole = body[: len(body) - len(body) % (width * form.channels)]
    flat: Any
    if form.kind == _FLOAT:
        flat = np.frombuffer(whole, dtype=f"<f{width}").astype(np.float32)
    elif form.bits == 8:  # unsigned, as the only width
        flat = (np.frombuffer(whole, dtype=np.uint8).astype(np.float32) - 128) / 128
    elif form.bits == 24:
        part = np.frombuffer(whole, dtype=np.uint8).reshape(-1, 3)
        padded = np.zeros((len(part), 4), dtype=np.uint8)
        padded[:, 1:] = part
        flat = padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        flat = np.frombuffer(whole, dtype=f"<i{width}").astype(np.float32) / 2 ** (form.bits - 1)
    return np.ascontiguousarray(flat.reshape(-1, form.channels).T)


def wav_of(sound: DecodedSound) -> bytes:
    """Return a sound as a WAV file of 16-bit integers."""
    samples = np.round(np.clip(sound.samples, -1, 1) * (2**15 - 1)).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", _PCM, 1, sound.rate, 2 * sound.rate, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body
