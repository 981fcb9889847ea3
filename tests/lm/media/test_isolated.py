"""Decoding in a process of its own: the same content, and an end to whatever goes wrong."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from gritlm.errors import InputError
from gritlm.lm.media import files
from gritlm.lm.media.decoding import isolated
from gritlm.lm.media.decoding.isolated import DecodingProcesses
from gritlm.lm.media.files import MediaRules, WebAddress
from gritlm.lm.media.images import decode_image
from gritlm.lm.media.inputs import ImagePart, SoundPart
from gritlm.lm.media.media_prompts import decode
from gritlm.lm.media.sounds import decode_sound
from tests.serve.media.conftest import png, wav

RULES = MediaRules(files=False, most_pixels=1_000_000, most_parts=3)


@pytest.fixture
def rules() -> Iterator[MediaRules]:
    with DecodingProcesses().rules(RULES, most_tokens=100) as found:
        yield found


def test_the_content_is_that_of_this_process(rules):
    part = ImagePart(png(), "the image")
    found = decode(part, rules)
    np.testing.assert_array_equal(found.pixels, decode_image(part, RULES).pixels)
    sound = SoundPart(wav(), "the sound")
    heard = decode(sound, rules)
    expected = decode_sound(sound, RULES)
    np.testing.assert_array_equal(heard.samples, expected.samples)
    assert heard.rate == expected.rate


def test_a_broken_file_does_not_end_the_process(rules):
    with pytest.raises(InputError, match="the image is broken"):
        decode(ImagePart(png()[:-900], "the image"), rules)
    assert decode(ImagePart(png(), "the image"), rules).pixels.shape == (40, 60, 3)


def test_a_request_has_few_images(rules):
    for _ in range(3):
        decode(ImagePart(png(), "the image"), rules)
    with pytest.raises(InputError, match="the request has more than 3 images and sounds"):
        decode(ImagePart(png(), "the image"), rules)


def test_memory_is_limited(monkeypatch):
    monkeypatch.setattr(isolated, "_BASE_BYTES", 220 * 2**20)
    monkeypatch.setattr(isolated, "_PIXEL_BYTES", 0)
    written = io.BytesIO()
    Image.new("RGBA", (6000, 6000)).save(written, "PNG", compress_level=1)
    large = MediaRules(files=False, most_pixels=40_000_000)
    with (
        DecodingProcesses().rules(large, most_tokens=100) as rules,
        pytest.raises(InputError, match=r"the image (takes too much memory|is not read: the p)"),
    ):
        decode(ImagePart(written.getvalue(), "the image"), rules)


def test_time_is_limited(monkeypatch):
    monkeypatch.setattr(isolated, "SECONDS", 0.01)  # less than the process needs to start
    with (
        DecodingProcesses().rules(RULES, most_tokens=100) as rules,
        pytest.raises(InputError, match=r"have 0\.01 seconds to be decoded"),
    ):
        decode(ImagePart(png(), "the image"), rules)


def test_the_addresses_of_a_request_share_their_time(monkeypatch):
    given = []

    def fetch(url: str, *, seconds: float, **_: object) -> bytes:
        given.append(seconds)
        time.sleep(0.2)
        return png()

    monkeypatch.setattr(files, "fetch", fetch)
    with DecodingProcesses().rules(RULES, most_tokens=100) as rules:
        for _ in range(2):
            decode(ImagePart(WebAddress("https://example.org/x.png"), "the image"), rules)
    first, second = given
    assert first == isolated.SECONDS
    assert second <= first - 0.2


def test_a_process_that_crashes_is_reported(monkeypatch):
    processes = DecodingProcesses()
    with processes.rules(RULES, most_tokens=100) as rules:
        decode(ImagePart(png(), "the image"), rules)
        (process,) = processes._running
        process.kill()
        with pytest.raises(InputError, match="the process that decodes it broke down"):
            decode(ImagePart(png(), "the image"), rules)
    assert processes._running == set()
    assert process.poll() is not None


def test_a_process_ends_with_its_request():
    processes = DecodingProcesses()
    with processes.rules(RULES, most_tokens=100) as rules:
        assert processes._running == set()  # a request without images has none
        decode(ImagePart(png(), "the image"), rules)
        (process,) = processes._running
    assert process.poll() is not None
    assert processes._running == set()


def test_the_process_starts_without_torch():
    """It would take seconds, and most of the memory."""
    code = "import gritlm.lm.media.decoding.decoding_process, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_no_file_and_no_address_reaches_the_process(rules):
    with pytest.raises(InputError, match="the image is not an image that is read here"):
        decode(ImagePart(b"/etc/passwd", "the image"), rules)
