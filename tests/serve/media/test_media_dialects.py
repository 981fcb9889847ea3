"""Images in the words of other APIs: the answer is that of the same chat in OpenAI's words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from tests.serve.conftest import Served, served
from tests.serve.media.conftest import asked, coded, data_url, image_part, png


@pytest.fixture(scope="module")
def seeing(models) -> Iterator[tuple[Served, GritLM]]:
    own, oracle = models("smolvlm")
    with served(own, ServerConfig(port=0)) as found:
        yield found, oracle


@pytest.fixture(scope="module")
def expected(seeing) -> str:
    return str(seeing[1].chat(asked(image_part()), max_new_tokens=8))


def test_responses_take_images(seeing, expected):
    parts = [
        {"type": "input_image", "image_url": data_url(png()), "detail": "auto"},
        {"type": "input_text", "text": "What is this?"},
    ]
    found = seeing[0].openai.responses.create(
        model="gritlm",
        input=[{"role": "user", "content": parts}],
        temperature=0,
        max_output_tokens=8,
    )
    assert found.output_text == expected


def test_anthropics_messages_take_images(seeing, expected):
    source = {"type": "base64", "media_type": "image/png", "data": coded(png())}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    body: dict[str, Any] = {"model": "gritlm", "messages": [{"role": "user", "content": content}]}
    http = seeing[0].http
    sent = body | {"max_tokens": 8, "temperature": 0}
    found = http.post("/v1/messages", json=sent).json()
    assert found["content"][0]["text"] == expected
    counted = http.post("/v1/messages/count_tokens", json=body).json()
    usage = found["usage"]
    assert counted["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    del source["data"]
    refused = http.post("/v1/messages", json=sent)
    assert refused.status_code == 400


def test_ollama_sends_images_next_to_the_text(seeing, expected):
    http = seeing[0].http
    options = {"options": {"temperature": 0, "num_predict": 8}, "stream": False, "model": "gritlm"}
    message = {"role": "user", "content": "What is this?", "images": [coded(png())]}
    assert "vision" in http.post("/api/show", json={"model": "gritlm"}).json()["capabilities"]
    assert http.get("/v1/models/gritlm").json()["reads"] == ["text", "image"]
    found = http.post("/api/chat", json={"messages": [message], **options}).json()
    assert found["message"]["content"] == expected
    one = {"prompt": "What is this?", "images": [coded(png())], **options}
    assert http.post("/api/generate", json=one).json()["response"] == expected
    refused = http.post("/api/generate", json=one | {"images": ["@@"]})
    assert refused.status_code == 400
    assert "not valid base64" in refused.text


@pytest.mark.parametrize("form", [{"json": {}}, {"files": {"file": ("a.wav", b"RIFF")}}])
def test_transcription_is_refused_by_name(seeing, form):
    refused = seeing[0].http.post("/v1/audio/transcriptions", **form)
    assert refused.status_code == 404
    assert "no model here transcribes" in refused.json()["error"]["message"]
