"""Decoding of images and sounds: every format that is read, and bad files."""

from __future__ import annotations

import io
import struct
import sys
import wave
import zlib
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.media.files import LOCAL, MediaRules
from gritlm.lm.media.images import decode_image
from gritlm.lm.media.inputs import ImagePart, SoundPart
from gritlm.lm.media.senses import DecodedSound, placeholder_ids
from gritlm.lm.media.sounds import decode_sound, resampled
from tests.lm.media.conftest import image


def pixels(source, rules: MediaRules = LOCAL) -> np.ndarray:
    return decode_image(ImagePart(source, "the image"), rules).pixels


def saved(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_formats_of_images(form, tmp_path):
    smooth = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    content = saved(smooth, form, **({"lossless": True} if form == "WEBP" else {}))
    difference = np.abs(pixels(content).astype(int) - np.asarray(smooth))
    assert difference.max() <= (16 if form in ("JPEG", "GIF") else 0)
    (tmp_path / "picture").write_bytes(content)
    np.testing.assert_array_equal(pixels(tmp_path / "picture"), pixels(content))


def test_an_image_of_pillow_and_an_array_are_read():
    np.testing.assert_array_equal(pixels(image()), np.asarray(image()))
    np.testing.assert_array_equal(pixels(np.asarray(image())), np.asarray(image()))


def test_an_image_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert pixels(saved(image(size=(40, 60)), "PNG", exif=exif)).shape == (60, 40, 3)


def test_transparent_parts_are_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (pixels(saved(clear, "PNG")) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert (pixels(saved(palette, "PNG", transparency=0)) == 255).all()


def test_cmyk_and_16_bits_become_rgb():
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red, green, blue = pixels(saved(cmyk, "TIFF"))[0, 0]
    assert red > 200
    assert max(green, blue) < 60
    deep = Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16))
    assert abs(int(pixels(saved(deep, "PNG"))[0, 0, 0]) - 127) <= 1


def test_an_animated_image_is_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(pixels(content)[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "rules", "said"),
    [
        (saved(image(), "PNG")[:500], LOCAL, "the image is broken"),
        (saved(image(), "JPEG")[:400], LOCAL, "the image is broken"),
        (b"no image at all", LOCAL, "not an image that is read here; expected PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", LOCAL, "not an image"),
        (b"", LOCAL, "the image is an empty file"),
        (saved(image(), "PNG"), MediaRules(most_pixels=1000), "60 x 40 pixels, at most 1,000"),
        (saved(Image.new("F", (4, 4)), "TIFF"), LOCAL, "floating-point pixels"),
        (np.zeros((4, 4, 3)), LOCAL, r"shape \(4, 4, 3\) and type float64; expected pixels"),
        (np.zeros((0, 4, 3), dtype=np.uint8), LOCAL, "4 x 0 pixels"),
    ],
    ids=range(9),
)
def test_a_bad_image_gets_one_clear_line(content, rules, said):
    with pytest.raises(InputError, match=said) as raised:
        pixels(content, rules)
    assert "\n" not in str(raised.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    """A file of a few kilobytes that claims 900 million pixels."""
    content = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(InputError, match=r"is refused: Image size \(900000000 pixels\)"):
        pixels(bytes(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        pixels(tmp_path / "missing.png")
    with pytest.raises(InputError, match="there is no file"):
        pixels(tmp_path)


def test_a_heic_image_without_its_library_says_which_one():
    with pytest.raises(MissingExtraError, match="needs pillow-heif"):
        pixels(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


TONE = (np.sin(np.arange(1600) / 8) / 2).astype(np.float32)


def wav(samples: np.ndarray, *, width: int, rate: int = 16000, channels: int = 1) -> bytes:
    """Return a WAV file of samples in [-1, 1], by the standard library."""
    scaled = np.round(samples.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    scaled = scaled + 128 if width == 1 else scaled
    flat = scaled.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(flat).tobytes())
    return buffer.getvalue()


def float_wav(samples: np.ndarray, bits: int) -> bytes:
    body = samples.astype(f"<f{bits // 8}").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, 16000, 16000 * bits // 8, bits // 8, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def heard(source, rules: MediaRules = LOCAL, rate: int | None = None) -> DecodedSound:
    return decode_sound(SoundPart(source, "the sound", rate), rules)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_of_every_width(width):
    found = heard(wav(TONE, width=width))
    assert found.rate == 16000
    np.testing.assert_allclose(found.samples, TONE, atol=2.0 ** (2 - 8 * width))


@pytest.mark.parametrize("bits", [32, 64])
def test_floats(bits):
    np.testing.assert_array_equal(heard(float_wav(TONE, bits)).samples, TONE)


def test_channels_are_averaged():
    both = np.stack([TONE, np.zeros_like(TONE)])
    found = heard(wav(both.T.flatten(), width=2, channels=2))
    np.testing.assert_allclose(found.samples, TONE / 2, atol=1e-4)
    np.testing.assert_allclose(heard(both, rate=16000).samples, TONE / 2, atol=1e-6)
    deep = heard((TONE * 32767).astype(np.int16), rate=8000)
    np.testing.assert_allclose(deep.samples, TONE, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_a_sound_of_another_rate_is_resampled(rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    found = resampled(DecodedSound(tone, rate), 16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert (found.rate, len(found.samples)) == (16000, 16000)
    np.testing.assert_allclose(found.samples[200:-200], expected[200:-200], atol=2e-3)


def test_what_is_above_the_new_half_rate_is_removed():
    tone = np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(resampled(DecodedSound(tone, 48_000), 16_000).samples[200:-200]).max() < 0.02


@pytest.mark.parametrize(
    ("content", "rules", "said"),
    [
        (wav(TONE, width=2)[:30], LOCAL, "damaged WAV file"),
        (wav(TONE, width=2)[:44], LOCAL, "the sound is empty"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcd", LOCAL, "its format is cut"),
        (float_wav(TONE, 32).replace(b"\x03\0\x01\0", b"\x02\0\x01\0", 1), LOCAL, "of format 2"),
        (wav(TONE * 0, width=2), LOCAL, "the sound is silent"),
        (wav(TONE, width=2), MediaRules(longest_sound=0.01), "at most 0 s are read; cut it"),
        (wav(TONE, width=2, rate=50), LOCAL, "50 samples a second"),
        (b"", LOCAL, "an empty file"),
        (float_wav(TONE * np.nan, 32), LOCAL, "not finite"),
    ],
    ids=range(9),
)
def test_a_bad_sound_gets_one_clear_line(content, rules, said):
    with pytest.raises(InputError, match=said) as raised:
        heard(content, rules)
    assert "\n" not in str(raised.value)


def test_another_format_names_the_library_or_the_damage():
    with pytest.raises((InputError, MissingExtraError), match=r"soundfile|not a sound"):
        heard(b"ID3\x04 not really")


class Compressed:
    """Stand-in for soundfile.SoundFile: a small file with many samples of 0.5, which counts the
    samples that are in memory together."""

    samplerate, channels, frames = 48_000, 2, 480_000
    largest = 0

    def __init__(self, _: object) -> None:
        self.rest = self.frames

    def __enter__(self) -> Compressed:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, frames: int, *, dtype: str, always_2d: bool) -> np.ndarray:
        assert (dtype, always_2d) == ("float32", True)
        length = min(frames, self.rest)
        self.rest -= length
        type(self).largest = max(self.largest, length * self.channels)
        return np.broadcast_to(np.float32(0.5), (length, self.channels))

    def blocks(self, size: int, *, frames: int, **options: object):
        while frames > 0 and self.rest:
            block = self.read(min(size, frames), **options)
            frames -= len(block)
            yield block


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> type[Compressed]:
    library = ModuleType("soundfile")
    library.__spec__ = ModuleSpec("soundfile", None)
    library.SoundFile = type("Counted", (Compressed,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "soundfile", library)
    return library.SoundFile


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(48_000, 255, 20), (384_000, 1, 2)])
def test_channels_of_a_compressed_sound_are_averaged_in_blocks(compressed, rate, channels, seconds):
    compressed.samplerate = rate
    compressed.channels = channels
    compressed.frames = rate * seconds
    sound = heard(b"OggS and more", MediaRules(longest_sound=20.0))
    assert (sound.rate, sound.samples.shape) == (rate, (rate * seconds,))
    assert (sound.samples == 0.5).all()
    assert compressed.largest <= 2**20


@pytest.mark.parametrize(
    ("rate", "frames", "said"),
    [
        (0, 10**6, "0 samples a second; expected 1000 to 768000"),
        (2_000_000, 10**7, "2000000 samples a second; expected 1000 to 768000"),
        (48_000, 48_000 * 11, "11 s long, at most 10 s are read; cut it"),
        (768_000, 768_000 * 10, "7,680,000 samples, at most 960,000 are read; convert it"),
    ],
)
def test_a_compressed_sound_beyond_the_limits_is_not_decoded(compressed, rate, frames, said):
    compressed.samplerate = rate
    compressed.frames = frames
    with pytest.raises(InputError, match=said):
        heard(b"OggS and more", MediaRules(longest_sound=10.0))
    assert compressed.largest == 0


def test_flac_is_decoded_as_wav():
    soundfile = pytest.importorskip("soundfile")
    stereo = np.stack([TONE, TONE / 2], axis=1)
    with io.BytesIO() as file:
        soundfile.write(file, stereo, 16_000, format="FLAC", subtype="PCM_24")
        sound = heard(file.getvalue())
    assert np.abs(sound.samples - stereo.mean(axis=1)).max() < 1e-6


def test_placeholders_are_negative_and_follow_from_the_content():
    inputs = {"pixels": np.zeros(3), "n": 1}
    first = placeholder_ids(inputs, "model", 5)
    assert all(number < 0 for number in first)
    assert len(set(first)) == 5
    assert placeholder_ids(inputs, "model", 3) == first[:3]
    assert placeholder_ids({**inputs, "n": 2}, "model", 5)[0] not in first
    assert placeholder_ids(inputs, "another", 5)[0] not in first
