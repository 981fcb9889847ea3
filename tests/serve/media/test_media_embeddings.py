"""Embeddings of images, sound and texts through a server, against those of the library."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gritlm import GritLM, gritlm_instruction
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from tests.lm.media.checkpoints import FAMILIES, SOUNDS
from tests.serve.conftest import Served, served
from tests.serve.media.conftest import asked, coded, data_url, image_part, png, sound_part, wav

EMBED = "/v1/embeddings"


def vectors(server: Served, **body: Any) -> Any:
    response = server.http.post(EMBED, json=body)
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [each["index"] for each in data] == list(range(len(data)))
    return np.array([each["embedding"] for each in data])


def encoded(oracle: GritLM, inputs: Any, instruction: str = "") -> Any:
    """Return the vectors of the library, with the header that a server writes."""
    return oracle.encode(inputs, instruction=gritlm_instruction(instruction))


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def seeing(models) -> Iterator[tuple[Served, GritLM]]:
    own, oracle = models("smolvlm")
    with served(own, ServerConfig(port=0, max_media_items=3), Limits()) as found:
        yield found, oracle


@pytest.mark.parametrize("name", FAMILIES)
def test_a_vector_is_that_of_the_library(start, name):
    server, oracle = start(name)
    content, key = (wav(1), "audio") if name in SOUNDS else (png(1), "image")
    found = vectors(server, input=[{key: coded(content)}, "A text.", {key: data_url(content)}])
    expected = encoded(oracle, [{key: content}, "A text."])
    close(found, expected[[0, 1, 0]])
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_jina_and_sentence_transformers_name_parts_by_their_kind(seeing):
    server, oracle = seeing
    content = png()
    found = vectors(
        server,
        input=[
            {"image": coded(content)},
            {"text": "A cat."},
            {"text": "A cat.", "image": data_url(content)},
            {"image": data_url(content), "text": "A cat.", "audio": None},
        ],
    )
    image = Image.open(io.BytesIO(content))
    expected = encoded(
        oracle,
        [image, "A cat.", {"text": "A cat.", "image": image}, {"image": image, "text": "A cat."}],
    )
    close(found, expected)
    assert not np.allclose(found[2], found[3], atol=1e-3)  # the order counts
    close(vectors(server, input={"image": coded(content)}), expected[:1])


def test_vllm_sends_messages(seeing):
    server, oracle = seeing
    expected = encoded(oracle, [[png(), "What is this?"]], "Find the page")
    messages = asked(image_part())
    system = {"role": "system", "content": [{"type": "text", "text": "Find the page"}]}
    close(vectors(server, messages=[system, *messages]), expected)
    close(vectors(server, messages=messages, instruction="Find the page"), expected)
    content = messages[0]["content"]
    close(vectors(server, input=[{"content": content}], instruction="Find the page"), expected)
    plain = vectors(server, messages=asked(text="A cat."))
    close(plain, encoded(oracle, ["A cat."]))


def test_usage_counts_the_tokens_of_images(seeing):
    server, oracle = seeing
    response = server.http.post(EMBED, json={"input": {"image": coded(png())}}).json()
    header = gritlm_instruction("")
    _, (block,) = oracle.encode([png()], instruction=header, get_cache=True)
    assert response["usage"]["prompt_tokens"] == block.tokens


def test_requests_next_to_each_other_are_what_each_is_alone(seeing):
    server, oracle = seeing
    inputs: list[Any] = [{"image": coded(png(seed))} for seed in range(4)]
    inputs += ["A text.", "Another text, which is longer than the first."]
    raw = [png(seed) for seed in range(4)] + inputs[4:]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda each: vectors(server, input=each)[0], inputs))
    close(found, encoded(oracle, raw))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": {"video": "x"}}, "item 0 has 'video'; expected text, image, audio, content"),
    ({"input": [{"image": "@@"}]}, "item 0 is not valid base64"),
    ({"input": [{"image": 5}]}, "a 'image' that is no text"),
    ({"input": [{}]}, "item 0 has no field"),
    ({"input": ["a", {"image": coded(b"GIF")}]}, "the image of part 0 of item 1"),
    ({"input": [[1, 2], {"image": coded(png())}]}, "expected all text or all token ids"),
    ({"input": {"content": [{"type": "hologram"}]}}, "item 0: content.0.type"),
    ({"input": {"content": [], "text": "a"}}, "'content' and other fields"),
    ({"input": {"audio": coded(wav())}}, "is a sound, this model reads text and image"),
    ({"input": {"image": "http://10.0.0.1/x.png"}}, "is on the web"),
    ({"input": [{"image": coded(png(n))} for n in range(4)]}, "more than 3 images and sounds"),
    ({"input": "a", "messages": asked(text="b")}, "give one"),
    ({}, "'input' is missing"),
    ({"messages": [*asked(text="a"), *asked(text="b")]}, "has the roles user, user"),
    ({"messages": asked(sound_part())}, "is a sound, this model reads text and image"),
]


@pytest.mark.parametrize(("body", "said"), REFUSED)
def test_an_input_that_is_not_taken_gets_one_clear_line(seeing, body, said):
    server, _ = seeing
    response = server.http.post(EMBED, json=body)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    assert said in message
    assert "\n" not in message
    assert server.http.get("/health").status_code == 200


def test_an_input_that_is_longer_than_the_model_takes_is_refused(start):
    server, _ = start("smolvlm", None, Limits(max_model_len=60))
    response = server.http.post(EMBED, json={"input": [{"image": coded(png())}, "short"]})
    assert response.status_code == 200
    parts = asked(image_part(), image_part())[0]["content"]
    response = server.http.post(EMBED, json={"input": {"content": parts}})
    assert response.status_code == 400
    assert "the maximum is 60" in response.text


def test_a_text_model_refuses_an_image(live: Served):
    response = live.http.post(EMBED, json={"input": {"image": coded(png())}})
    assert response.status_code == 400
    assert "this model reads text only" in response.text


def test_rerank_takes_texts_only(seeing):
    server, _ = seeing
    body = {"query": "a", "documents": ["b", {"image": coded(png())}]}
    response = server.http.post("/v1/rerank", json=body)
    assert response.status_code == 400
    assert "documents[1]" in response.text
