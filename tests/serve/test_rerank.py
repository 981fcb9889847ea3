"""Reranking with likelihood and cosine: the library's order, as probabilities that stand alone."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log

import cohere
import pytest
import torch

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.hub.model_config import FusionSettings, ModelSettings
from gritlm.prompts import gritlm_instruction
from gritlm.rag.engine import RagEngine
from gritlm.rag.plan import PromptAssembler, question_after
from gritlm.rag.rerank import Reranker
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.serve.api.rerank import probability
from gritlm.serve.config import ServerConfig
from tests import tiny
from tests.rag.conftest import hit
from tests.serve.conftest import LENGTH, TEXTS, Served, served

QUERY = "What colour is the ball?"
DOCUMENTS = list(TEXTS.values())
INSTRUCTION = "Find the passage"
WEIGHT = 3.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    folder = tiny.folder(tmp_path_factory.mktemp("weighed"), max_position_embeddings=LENGTH)
    fusion = FusionSettings(cosine=WEIGHT, margin=0.1)
    ModelSettings(query_instruction=INSTRUCTION, max_length=LENGTH, fusion=fusion).save(folder)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def server(model: GritLM) -> Iterator[Served]:
    with served(model, ServerConfig(port=0, names=("tiny",))) as found:
        yield found


@pytest.fixture(scope="module")
def ranked(model: GritLM, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """Index and score of each document by the library, the best first."""
    query = model.encode(QUERY, instruction=gritlm_instruction(INSTRUCTION))
    cosines = model.encode(DOCUMENTS, instruction=gritlm_instruction()) @ query
    place = tmp_path_factory.mktemp("library") / "store"
    with RagEngine.open(place, model, longest=LENGTH) as engine:
        blocks = BlockProvider(model.lm, engine.store)
        reranker = Reranker(model, blocks, PromptAssembler(model), causal=False)
        hits = [
            hit(text, rank, float(cosine))
            for rank, (text, cosine) in enumerate(zip(DOCUMENTS, cosines, strict=True), 1)
        ]
        found = reranker.ranked(QUERY, hits, method="likelihood")
    return [(int(each.passage.id[1:]) - 1, score) for each, score in found]


def post(server: Served, path: str = "/v1/rerank", **body: object) -> dict[int, float]:
    """Return the relevance of each document, the best first."""
    found = server.http.post(path, json={"query": QUERY, "documents": DOCUMENTS, **body})
    results = found.raise_for_status().json()["results"]
    return {each["index"]: each["relevance_score"] for each in results}


def log_odds(relevance: float) -> float:
    return log(relevance / (1 - relevance))


@torch.inference_mode()
def alone(model: GritLM) -> float:
    """Mean log-probability of the query without a document, by one plain pass."""
    ids, (begin, end) = question_after(model.encoder.tokens, QUERY)
    logprob_TV = model.lm.causal(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return float(logprob_TV[begin - 1 : end - 1, ids[begin:end]].diagonal().mean())


def test_a_calibrated_model_ranks_as_the_library_does(server, model, ranked):
    found = post(server)
    assert list(found) == [index for index, _ in ranked]
    assert len(set(found.values())) == len(DOCUMENTS)
    neutral = alone(model) + WEIGHT * 0.5
    for index, score in ranked:
        assert 0 < found[index] < 1
        assert log_odds(found[index]) == pytest.approx(score - neutral, abs=1e-4)


def test_relevance_does_not_depend_on_the_other_documents(server):
    together = post(server)
    for index, text in enumerate(DOCUMENTS):
        (own,) = post(server, documents=[text]).values()
        assert own == pytest.approx(together[index], abs=1e-5)


def test_cohere_and_litellm_get_this_order_from_every_path(server, ranked, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx.http_handler import HTTPHandler

    for client_class in (cohere.Client, cohere.ClientV2):
        client = client_class("none", base_url=server.url, httpx_client=server.http)
        found = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS)
        assert [each.index for each in found.results] == [index for index, _ in ranked]
        assert all(0 < each.relevance_score < 1 for each in found.results)
    for provider, path in (("jina_ai", "/v1/rerank"), ("hosted_vllm", ""), ("infinity", "")):
        found = litellm.rerank(
            model=f"{provider}/tiny",
            query=QUERY,
            documents=DOCUMENTS,
            return_documents=False,
            client=HTTPHandler(client=server.http),
            api_base=f"{server.url}{path}",
            api_key="none",
        )
        assert [each["index"] for each in found.results] == [index for index, _ in ranked]


def test_texts_get_log_odds_where_raw_scores_are_wanted(server):
    relevances = post(server)
    body = {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}
    found = server.http.post("/rerank", json=body).raise_for_status()
    assert "raw_scores" not in found.headers.get("x-gritlm-ignored", "")
    assert [each["index"] for each in found.json()] == list(relevances)
    for each in found.json():
        assert each["score"] == pytest.approx(log_odds(relevances[each["index"]]), abs=1e-4)


def test_the_instruction_changes_the_cosine_in_the_score(server, model):
    plain = post(server)
    other = post(server, instruction="Name animals")
    own, others = (
        model.encode(QUERY, instruction=gritlm_instruction(each))
        for each in (INSTRUCTION, "Name animals")
    )
    change_N = model.encode(DOCUMENTS, instruction=gritlm_instruction()) @ (others - own)
    for index, relevance in plain.items():
        change = log_odds(other[index]) - log_odds(relevance)
        assert change == pytest.approx(WEIGHT * change_N[index], abs=1e-4)
    body = {"query": QUERY, "documents": DOCUMENTS, "method": "generate", "instruction": "Find"}
    refused = server.http.post("/v1/rerank", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "instruction")


def test_tokens_of_the_query_for_the_cosine_are_counted(server):
    body = {"query": QUERY, "documents": DOCUMENTS}
    usage = {}
    for method in ("embed", "likelihood"):
        found = server.http.post("/v1/rerank", json=body | {"method": method}).json()
        usage[method] = found["usage"]["total_tokens"]
    question, _ = question_after(server.service.model.encoder.tokens, QUERY)
    assert usage["likelihood"] - usage["embed"] == len(DOCUMENTS) * len(question)


def test_a_server_option_chooses_the_method_of_requests_without_one(model, server, ranked):
    cosines = post(server, method="embed")
    assert list(cosines) != [index for index, _ in ranked]
    with served(model, ServerConfig(port=0, names=("tiny",), rerank="embed")) as other:
        client = cohere.ClientV2("none", base_url=other.url, httpx_client=other.http)
        found = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS)
        scores = {each.index: each.relevance_score for each in found.results}
        assert scores == pytest.approx(cosines, abs=1e-5)
        chosen = post(other, method="likelihood")
        assert list(chosen) == [index for index, _ in ranked]
    with pytest.raises(InputError, match="rerank='best'"):
        ServerConfig(rerank="best")  # type: ignore[arg-type]


def test_a_model_without_calibration_ranks_by_cosine_by_default(live: Served):
    assert post(live) == pytest.approx(post(live, method="embed"))
    assert post(live, method="likelihood") != pytest.approx(post(live))


def test_probabilities_keep_the_order_and_stay_between_0_and_1():
    values = [-1e9, -800.0, -20.0, -1.0, 0.0, 1e-6, 1.0, 20.0, 30.0, 800.0]
    found = [probability(value) for value in values]
    assert found == sorted(found)
    assert len(set(found)) == len(values) - 1  # the first two are the smallest value
    assert 0 < found[0] < found[-1] < 1
    assert probability(1.0) == pytest.approx(1 / (1 + exp(-1)))
