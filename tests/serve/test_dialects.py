"""Clients of Cohere, LiteLLM and plain HTTP on the routes of other embedding and rerank servers."""

from __future__ import annotations

from base64 import b64decode

import cohere
import httpx
import numpy as np
import pytest

from gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from gritlm.serve.config import ServerConfig
from tests.serve.conftest import TEXTS, Served, served

QUERY = "What colour is the ball?"
DOCUMENTS = list(TEXTS.values())
INSTRUCTION = "Find the passage"  # of the tiny model


def cohere_v1(live: Served, key: str = "none") -> cohere.Client:
    return cohere.Client(key, base_url=live.url, httpx_client=live.http)


def cohere_v2(live: Served, key: str = "none") -> cohere.ClientV2:
    return cohere.ClientV2(key, base_url=live.url, httpx_client=live.http)


@pytest.fixture(scope="module")
def documents_nd(oracle: GritLM):
    return oracle.encode(DOCUMENTS, instruction=gritlm_instruction())


@pytest.fixture(scope="module")
def query_nd(oracle: GritLM):
    return oracle.encode([QUERY], instruction=gritlm_instruction(INSTRUCTION))


@pytest.fixture(scope="module")
def ranked(live: Served) -> list[tuple[int, float]]:
    """What ``/v1/rerank`` answers."""
    body = {"query": QUERY, "documents": DOCUMENTS}
    found = live.http.post("/v1/rerank", json=body).raise_for_status().json()
    return [(each["index"], each["relevance_score"]) for each in found["results"]]


def test_cohere_v2_embeds_in_every_number_format(live: Served, documents_nd):
    client = cohere_v2(live)
    formats = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = client.embed(
        model="tiny", input_type="search_document", texts=DOCUMENTS, embedding_types=formats
    )
    vectors = found.embeddings
    np.testing.assert_allclose(vectors.float_, documents_nd, atol=1e-5)
    scale_N1 = 127 / np.abs(documents_nd).max(axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.int8, documents_nd * scale_N1, atol=0.51)
    np.testing.assert_array_equal(np.array(vectors.uint8) - 128, vectors.int8)
    assert np.abs(vectors.int8).max(axis=1).tolist() == [127] * len(DOCUMENTS)
    bits_ND = np.unpackbits(np.array(vectors.ubinary, dtype=np.uint8), axis=1)
    np.testing.assert_array_equal(bits_ND, documents_nd > 0)
    np.testing.assert_array_equal(np.array(vectors.binary) + 128, vectors.ubinary)
    bytes_N = [np.frombuffer(b64decode(each), "<f4") for each in vectors.base64]
    np.testing.assert_allclose(bytes_N, documents_nd, atol=1e-5)
    assert found.texts == DOCUMENTS
    assert found.meta.billed_units.input_tokens > 0


def test_cohere_v1_and_v2_embed_queries_and_cut_long_texts(live: Served, query_nd):
    v2 = cohere_v2(live)
    inputs = [{"content": [{"type": "text", "text": QUERY}]}]
    found = v2.embed(
        model="tiny", input_type="search_query", inputs=inputs, embedding_types=["float"]
    )
    np.testing.assert_allclose(found.embeddings.float_, query_nd, atol=1e-5)
    short = v2.embed(
        model="tiny",
        input_type="search_query",
        texts=[QUERY],
        embedding_types=["float"],
        output_dimension=8,
    )
    wanted = query_nd[:, :8] / np.linalg.norm(query_nd[:, :8])
    np.testing.assert_allclose(short.embeddings.float_, wanted, atol=1e-5)
    v1 = cohere_v1(live)
    found = v1.embed(model="tiny", input_type="search_query", texts=[QUERY])
    np.testing.assert_allclose(found.embeddings, query_nd, atol=1e-5)
    assert found.response_type == "embeddings_floats"
    long = "word " * 2000
    v1.embed(model="tiny", input_type="search_document", texts=[long], truncate="END")
    with pytest.raises(cohere.errors.BadRequestError) as caught:
        v1.embed(model="tiny", input_type="search_document", texts=[long], truncate="NONE")
    assert "maximum context length" in caught.value.body["message"]


def test_cohere_v1_and_v2_rerank(live: Served, ranked):
    for client in (
        cohere_v1(live),
        cohere_v2(live),
    ):
        found = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS, top_n=2)
        assert [each.index for each in found.results] == [index for index, _ in ranked[:2]]
        scores = [each.relevance_score for each in found.results]
        np.testing.assert_allclose(scores, [score for _, score in ranked[:2]], atol=1e-6)


def test_cohere_reports_its_errors(live: Served):
    client = cohere_v2(live)
    with pytest.raises(cohere.errors.NotFoundError) as caught:
        client.embed(model="other", input_type="search_query", texts=["a"])
    assert caught.value.body["message"].startswith("The model 'other' does not exist")
    with pytest.raises(cohere.errors.BadRequestError) as caught:
        client.embed(model="tiny", input_type="image", images=["data:image/png;base64,aaaa"])
    assert "input_type" in caught.value.body["message"]


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("jina_ai", "/v1/rerank"),
        ("hosted_vllm", ""),
        ("infinity", ""),  # its client reads documents as plain strings
        ("cohere", "/v2/rerank"),
    ],
)
def test_litellm_reranks_under_each_name(live: Served, ranked, monkeypatch, provider, path):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx.http_handler import HTTPHandler

    found = litellm.rerank(
        model=f"{provider}/tiny",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=3,
        return_documents=provider != "infinity",
        client=HTTPHandler(client=live.http),
        api_base=f"{live.url}{path}",
        api_key="none",
    )
    assert [each["index"] for each in found.results] == [index for index, _ in ranked]
    scores = [each["relevance_score"] for each in found.results]
    np.testing.assert_allclose(scores, [score for _, score in ranked], atol=1e-6)


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("openai", "/v1"),
        ("jina_ai", "/v1"),
        ("hosted_vllm", "/v1"),
        ("infinity", "/v1"),
        ("cohere", "/v2/embed"),
    ],
)
def test_litellm_embeds_under_each_name(live: Served, documents_nd, monkeypatch, provider, path):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx.http_handler import HTTPHandler

    found = litellm.embedding(
        model=f"{provider}/tiny",
        input=DOCUMENTS,
        client=live.openai if provider == "openai" else HTTPHandler(client=live.http),
        api_base=f"{live.url}{path}",
        api_key="none",
    )
    vectors = [each["embedding"] for each in found.data]
    np.testing.assert_allclose(vectors, documents_nd, atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        {"input_type": "query"},
        {"input_type": "search_query"},
        {"task": "retrieval.query"},
        {"input_type": "query", "truncate": "END"},  # NVIDIA NIM
        {"input_type": "query", "truncation": True},  # Voyage
    ],
)
def test_the_words_of_other_apis_for_a_query(live: Served, query_nd, words):
    body = {"model": "tiny", "input": [QUERY], **words}
    found = live.http.post("/v1/embeddings", json=body).raise_for_status().json()
    np.testing.assert_allclose([found["data"][0]["embedding"]], query_nd, atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [{"input_type": "passage"}, {"task": "retrieval.passage"}, {"task": "text-matching"}],
)
def test_the_words_of_other_apis_for_a_document(live: Served, documents_nd, words):
    body = {"model": "tiny", "input": DOCUMENTS, **words}
    found = live.http.post("/v1/embeddings", json=body).raise_for_status().json()
    vectors = [each["embedding"] for each in found["data"]]
    np.testing.assert_allclose(vectors, documents_nd, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"truncate": True}, 200),
        ({"truncate": "END"}, 200),
        ({"truncation": True}, 200),
        ({"truncate": "NONE"}, 400),
        ({"truncate": "START"}, 400),
        ({"truncate": False}, 400),
        ({"truncation": False}, 400),
        ({"task": "retrieval.other"}, 400),
    ],
)
def test_long_texts_are_cut_where_the_request_says_so(live: Served, words, status):
    body = {"input": ["word " * 2000], **words}
    assert live.http.post("/v1/embeddings", json=body).status_code == status


def test_tei_embeds_and_reranks(live: Served, documents_nd, query_nd, ranked):
    found = live.http.post("/embed", json={"inputs": DOCUMENTS, "normalize": True})
    np.testing.assert_allclose(found.raise_for_status().json(), documents_nd, atol=1e-5)
    found = live.http.post("/embed", json={"inputs": QUERY, "prompt_name": "query"})
    np.testing.assert_allclose(found.raise_for_status().json(), query_nd, atol=1e-5)
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "raw_scores": False}
    found = live.http.post("/rerank", json=body).raise_for_status().json()
    assert [each["index"] for each in found] == [index for index, _ in ranked]
    assert found[0]["text"] == DOCUMENTS[found[0]["index"]]
    np.testing.assert_allclose(
        [each["score"] for each in found], [score for _, score in ranked], atol=1e-6
    )
    long = {"inputs": "word " * 2000}
    assert live.http.post("/embed", json=long | {"truncate": True}).status_code == 200
    refused = live.http.post("/embed", json=long)
    assert refused.status_code == 400
    assert refused.json()["error_type"] == "validation"
    assert "maximum context length" in refused.json()["error"]
    assert live.http.post("/embed", json={"inputs": "a", "normalize": False}).status_code == 400


def test_huggingface_hub_embeds_with_tei(live: Served, documents_nd):
    from huggingface_hub import InferenceClient

    with InferenceClient(base_url=f"{live.url}/embed") as client:
        found = client.feature_extraction(DOCUMENTS, truncate=True)
    np.testing.assert_allclose(found, documents_nd, atol=1e-5)


def test_plain_rerank_takes_one_of_two_forms(live: Served, ranked):
    body = {"query": QUERY, "documents": DOCUMENTS, "method": "embed", "return_documents": True}
    found = live.http.post("/rerank", json=body).raise_for_status().json()["results"]
    assert [each["index"] for each in found] == [index for index, _ in ranked]
    assert found[0]["document"]["text"] == DOCUMENTS[found[0]["index"]]
    for wrong in ({}, {"documents": DOCUMENTS, "texts": DOCUMENTS}):
        refused = live.http.post("/rerank", json={"query": QUERY, **wrong})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "documents"


def test_scores_of_pairs(live: Served, ranked, oracle: GritLM):
    scores = dict(ranked)
    for path in ("/score", "/v1/score"):
        body = {"model": "tiny", "text_1": QUERY, "text_2": DOCUMENTS}
        found = live.http.post(path, json=body).raise_for_status().json()
        for each in found["data"]:
            assert each["score"] == pytest.approx(scores[each["index"]], abs=1e-5)
        pairs = {"text_1": [QUERY] * len(DOCUMENTS), "text_2": DOCUMENTS}
        again = live.http.post(path, json=pairs).raise_for_status().json()
        np.testing.assert_allclose(
            [each["score"] for each in again["data"]],
            [each["score"] for each in found["data"]],
            atol=1e-5,
        )
    refused = live.http.post("/score", json={"text_1": ["a", "b"], "text_2": ["a", "b", "c"]})
    assert refused.status_code == 400
    assert "text_1 has 2 texts and text_2 has 3" in refused.json()["error"]["message"]


def test_each_path_refuses_keys_in_the_form_of_its_client(grit: GritLM):
    with served(grit, ServerConfig(port=0, api_keys=("key",))) as locked:
        with httpx.Client(base_url=locked.url) as bare:
            assert bare.post("/v1/embed").json()["message"].startswith("You didn't provide")
            assert bare.post("/embed").json()["error"].startswith("You didn't provide")
            assert bare.post("/rerank").json()["error"]["code"] == "invalid_api_key"
            found = bare.get("/v1/models", headers={"x-api-key": "key"})
            assert found.status_code == 200
            assert bare.get("/v1/models", headers={"x-api-key": "kex"}).status_code == 401
        client = cohere_v2(locked, "key")
        found = client.rerank(model="gritlm", query=QUERY, documents=DOCUMENTS)
        assert len(found.results) == len(DOCUMENTS)
        with pytest.raises(cohere.errors.UnauthorizedError, match="Incorrect API key"):
            cohere_v2(locked, "no").rerank(model="gritlm", query=QUERY, documents=DOCUMENTS)
