"""Forms of inputs, and those that are refused with one clear line."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gritlm.errors import InputError
from gritlm.lm.media.files import LOCAL, UNTRUSTED, MediaRules, WebAddress
from gritlm.lm.media.inputs import (
    ImagePart,
    InputText,
    SoundPart,
    as_parts,
)
from gritlm.lm.media.sequences import as_inputs, document_inputs, is_single
from tests.lm.media.conftest import image, sound


def png(picture: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (picture or image()).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def kinds(value, rules: MediaRules = LOCAL) -> list[str]:
    return [type(part).__name__ for part in as_parts(value, "it", rules)]


@pytest.mark.parametrize(
    "value",
    [
        image(),
        PNG,
        bytearray(PNG),
        Path("picture.png"),
        np.zeros((4, 5, 3), dtype=np.uint8),
        {"image": image()},
        {"image": "picture.png"},
        {"image": DATA_URL},
        {"image": torch.zeros(4, 5, 3, dtype=torch.uint8)},
        {"type": "image", "image": image()},
        {"type": "image", "path": "picture.png"},
        {"type": "image", "base64": base64.b64encode(PNG).decode()},
        {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}},
        {"type": "image_url", "image_url": DATA_URL},
        {"type": "input_image", "image_url": DATA_URL},
    ],
    ids=range(15),
)
def test_forms_of_an_image(value):
    assert kinds(value) == ["ImagePart"]


@pytest.mark.parametrize(
    "value",
    [
        sound(),
        {"audio": sound()},
        {"audio": Path("speech.wav")},
        {"audio": b"RIFF...."},
        Path("speech.flac"),
        b"RIFF\0\0\0\0WAVE",
        {"type": "audio", "audio": sound()},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ],
    ids=range(8),
)
def test_forms_of_a_sound(value):
    assert kinds(value) == ["SoundPart"]


def test_parts_keep_their_order():
    assert kinds({"text": "t", "image": [image(), image()]}) == [
        "InputText",
        "ImagePart",
        "ImagePart",
    ]
    assert kinds({"image": image(), "text": "t"}) == ["ImagePart", "InputText"]
    assert kinds([image(), "text", {"audio": sound()}]) == ["ImagePart", "InputText", "SoundPart"]


def test_a_string_is_text_whatever_it_names(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    for text in (str(path), DATA_URL, "https://example.org/a.png"):
        assert as_parts(text, "it", LOCAL) == (InputText(text),)


def test_inputs_without_media_are_texts():
    mixed = ["one", {"text": "two"}, ["three ", "parts"], image()]
    found = as_inputs(mixed, LOCAL, reads_media=True)
    assert found[:3] == ["one", "two", "three parts"]
    assert isinstance(found[3], tuple)
    assert isinstance(found[3][0], ImagePart)
    assert as_inputs("a text", LOCAL, reads_media=True) == ["a text"]
    assert len(as_inputs(image(), LOCAL, reads_media=True)) == 1


@pytest.mark.parametrize("texts", [np.array(["one", "two"]), ("one", "two"), iter(["one", "two"])])
def test_sequences_of_texts_stay_sequences(texts):
    assert not is_single(texts)
    assert as_inputs(texts, LOCAL, reads_media=True) == ["one", "two"]


def test_documents_keep_their_images():
    picture = image()
    documents = [{"title": "T", "text": "x"}, {"title": "T", "text": "x", "image": picture}, "y"]
    assert document_inputs(documents) == ["T x", {"text": "T x", "image": picture}, "y"]
    assert document_inputs({"image": picture}) == {"image": picture}
    assert document_inputs([{"title": "T", "text": "x"}]) == ["T x"]


@pytest.mark.parametrize(
    ("value", "rules", "said"),
    [
        ({"type": "hologram", "x": 1}, LOCAL, "it has the type 'hologram'; expected text"),
        ({"type": "image_url"}, LOCAL, "'image_url' without image_url"),
        ({"pictures": 1}, LOCAL, "it is a dict with pictures; expected text, image or audio"),
        ({}, LOCAL, "a dict with no key"),
        ({"video": "a.mp4"}, LOCAL, "a video, which is not read; pass its frames"),
        ({"text": 5}, LOCAL, "the text of it is int"),
        (object(), LOCAL, "it is object; expected a text, an image"),
        (b"plain bytes", LOCAL, "neither recognised as an image nor as a sound"),
        (Path("notes.txt"), LOCAL, "neither recognised"),
        ([["nested"]], LOCAL, "part 0 of it is a list; expected a single part"),
        ([], LOCAL, "it is empty"),
        ([""], LOCAL, "it is empty"),
        ({"audio": np.zeros(8)}, LOCAL, "an array without a rate"),
        ({"audio": {"array": np.zeros(8)}}, LOCAL, "expected an array and its sampling_rate"),
        ({"image": 5}, LOCAL, "the image of it is int; expected a path, bytes"),
        ({"image": "data:image/png,xyz"}, LOCAL, "data: URL that begins with 'data:image/png'"),
        ({"image": "data:image/png;base64,%%%"}, LOCAL, "is not valid base64"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, LOCAL, "the address"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, LOCAL, "the address"),
        ({"type": "image_url", "image_url": {}}, LOCAL, "the address 'None'"),
        ({"image": "/etc/passwd"}, UNTRUSTED, "names a file .* not allowed here"),
        (Path("x.png"), UNTRUSTED, "names a file .* not allowed here"),
        ({"image": "https://example.org/a.png"}, LOCAL, "is on the web .* not allowed here"),
        ({"image": DATA_URL}, MediaRules(most_bytes=100), "at most 100 are read"),
        (PNG, MediaRules(most_bytes=100), "at most 100 are read"),
        ([image()] * 3, MediaRules(most_parts=2), "3 images and sounds, at most 2"),
        ("bad \ud800 one", LOCAL, "lone surrogate"),
    ],
    ids=range(27),
)
def test_a_bad_input_gets_one_clear_line(value, rules, said):
    with pytest.raises(InputError, match=said) as raised:
        as_parts(value, "it", rules)
    assert "\n" not in str(raised.value)


def test_addresses_are_kept_where_they_are_allowed():
    rules = MediaRules(web=True)
    (part,) = as_parts({"image": "https://example.org/a.png"}, "it", rules)
    assert isinstance(part, ImagePart)
    assert part.source == WebAddress("https://example.org/a.png")
    (part,) = as_parts({"audio": "https://example.org/a.wav"}, "it", rules)
    assert isinstance(part, SoundPart)
