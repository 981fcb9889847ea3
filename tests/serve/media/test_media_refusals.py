"""Images and sounds that a server does not read: one clear line each, and it stays healthy."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from tests.serve.conftest import Served, served
from tests.serve.media.conftest import asked, data_url, image_part, png, sound_part, wav

CHAT = "/v1/chat/completions"
SETTINGS = ServerConfig(
    port=0, max_media_pixels=10_000, max_media_seconds=2.0, max_media_items=3, max_body_bytes=2**20
)


@pytest.fixture(scope="module")
def seeing(models) -> Iterator[Served]:
    with served(models("smolvlm")[0], SETTINGS) as found:
        yield found


@pytest.fixture(scope="module")
def hearing(models) -> Iterator[Served]:
    with served(models("voxtral")[0], SETTINGS) as found:
        yield found


def refused(server: Served, messages: Any, **more: Any) -> str:
    """Return the message of the error; the server answers another request afterwards."""
    response = server.http.post(CHAT, json={"messages": messages, "max_tokens": 2} | more)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    assert "\n" not in message
    assert server.http.get("/health").status_code == 200
    text = {"messages": asked(text="Hello"), "max_tokens": 2}
    assert server.http.post(CHAT, json=text).status_code == 200
    return str(message)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes with many pixels, all black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(side * (3 * side + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animated() -> bytes:
    written = io.BytesIO()
    frames = [Image.new("RGB", (40, 60), colour) for colour in ("red", "blue")]
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:])
    return written.getvalue()


def silent() -> bytes:
    return wav()[:44] + bytes(2000)


BROKEN = {
    "half": (png()[:-900], "is broken"),
    "text": (b"An image of a cat.", "is not an image that is read here"),
    "empty": (b"GIF89a", "is not an image that is read here"),
    "bomb": (bomb(2000), "has 2000 x 2000 pixels, at most 10,000 are read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "is not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_gets_one_clear_line(seeing: Served, name: str):
    content, said = BROKEN[name]
    message = refused(seeing, asked(image_part(content)))
    assert said in message or (name == "heic" and "is broken" in message)
    assert message.startswith("'messages': the image of part 0 of message 0")


def test_an_animated_image_is_read_by_its_first_frame(seeing: Served, models):
    body = {"messages": asked(image_part(animated())), "max_tokens": 4, "temperature": 0}
    found = seeing.http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    still = io.BytesIO()
    Image.new("RGB", (40, 60), "red").save(still, "PNG")
    expected = models("smolvlm")[1].chat(asked(image_part(still.getvalue())), max_new_tokens=4)
    assert found == expected


BROKEN_SOUNDS = {
    "long": (wav(seconds=3), "is 3 s long, at most 2 s are read"),
    "silent": (silent(), "is silent"),
    "half": (wav()[:30], "is a damaged WAV file"),
    "text": (b"A song.", "is not a WAV file"),
}


@pytest.mark.parametrize("name", BROKEN_SOUNDS)
def test_a_broken_sound_gets_one_clear_line(hearing: Served, name: str):
    content, said = BROKEN_SOUNDS[name]
    message = refused(hearing, asked(sound_part(content)))
    assert said in message or (name == "text" and "is not a sound" in message)


PARTS: list[tuple[dict[str, Any], str]] = [
    ({"type": "hologram", "hologram": {}}, "supports only 'text' or 'image_url' or"),
    ({"type": "image_url"}, "a part of the type 'image_url' with none of its fields"),
    ({"type": "image_url", "image_url": {"url": "cat.png"}}, "expected a data: URL"),
    ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "expected a data: URL"),
    ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "expected data:image/png"),
    (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,@@"}},
        "is not valid base64",
    ),
    (
        {"type": "image_url", "image_url": {"url": "http://example.org/cat.png"}},
        "is on the web (http://example.org/cat.png), which is not allowed here",
    ),
    ({"type": "input_audio", "input_audio": {"data": "@", "format": "wav"}}, "not valid base64"),
    (sound_part(), "is a sound, this model reads text and image"),
]


@pytest.mark.parametrize(("part", "said"), PARTS)
def test_a_part_that_is_not_taken_gets_one_clear_line(seeing: Served, part, said):
    assert said in refused(seeing, asked(part))


def test_more_images_than_a_request_may_have_are_refused(seeing: Served):
    message = refused(seeing, asked(*[image_part(png(0, (8, 8)))] * 4))
    assert "message 0 has 4 images and sounds, at most 3 are read" in message
    one = asked(image_part(png(0, (8, 8))))
    message = refused(seeing, [*one, *one, *one, *one])
    assert "the request has more than 3 images and sounds" in message


@pytest.mark.parametrize("count", [3, 9])
def test_more_images_than_the_model_takes_are_refused(start, count: int):
    short, oracle = start("smolvlm", None, Limits(max_model_len=110))
    one, two = (len(oracle.chat_prompt(asked(*[image_part()] * n)).ids) for n in (1, 2))
    assert two < 110 < one + (count - 1) * (two - one)
    message = refused(short, asked(*[image_part()] * count))
    assert "110" in message
    assert "tokens" in message


def test_tools_with_an_image_are_refused(seeing: Served):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    assert "tools or their calls" in refused(seeing, asked(image_part()), tools=[tool])


def test_routes_that_take_texts_only_name_the_message(seeing: Served):
    response = seeing.http.post("/tokenize", json={"messages": asked(image_part())})
    assert response.status_code == 400
    assert "message 0 has an image or a sound; tokenization" in response.text


def test_a_text_model_refuses_an_image(serve, live: Served):
    message = refused(live, asked(image_part()))
    assert "this model reads text only, no image" in message


def test_a_body_that_is_too_large_is_refused_as_ever(seeing: Served):
    part = {"type": "image_url", "image_url": {"url": data_url(bytes(2**20))}}
    response = seeing.http.post(CHAT, json={"messages": asked(part)})
    assert response.status_code == 413
