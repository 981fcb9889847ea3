"""Made-up requests after our own OpenAPI schema: whatever comes, the server is not at fault."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import TEXTS, Served, served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
PATHS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/rerank"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/v1/adaptations"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/metrics"),
    ("POST", "/v1/rag/documents"),
    ("GET", "/v1/rag/documents"),
    ("GET", "/v1/rag/stores"),
    ("DELETE", "/v1/rag/documents/{document_id}"),
    ("GET", "/v1/rag/media/{passage_id}"),
    ("POST", "/v1/rag/search"),
    ("POST", "/v1/rag/answer"),
    ("POST", "/score"),
    ("POST", "/v1/score"),
    ("POST", "/rerank"),
    ("POST", "/embed"),
    ("POST", "/v1/embed"),
    ("POST", "/v2/embed"),
    ("POST", "/v2/rerank"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("POST", "/api/embed"),
    ("POST", "/api/embeddings"),
    ("POST", "/api/show"),
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
    ("GET", "/api/version"),
]


@pytest.fixture(scope="module")
def short(grit: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose answers are short, with a store of ``TEXTS``."""
    store = StoreAt(tmp_path_factory.mktemp("schema") / "store")
    limits = Limits(max_num_seqs=2, max_model_len=400)
    with served(grit, ServerConfig(port=0), limits, store) as found:
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        yield found


@pytest.fixture(scope="module")
def schema(short: Served):
    return schemathesis.openapi.from_url(f"{short.url}/openapi.json")


def test_all_paths_of_the_schema_are_tried(schema):
    found = {(each.ok().method.upper(), each.ok().path) for each in schema.get_all_operations()}
    assert found == set(PATHS)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_request_makes_the_server_fail(schema, short: Served, method: str, path: str):
    tried(schema[path][method].as_strategy(GenerationMode.POSITIVE), CHECKS)
    assert short.http.get("/health").status_code == 200


@pytest.mark.parametrize("path", [path for method, path in PATHS if method == "POST"])
def test_a_request_that_breaks_the_schema_is_refused(schema, path: str):
    strategy = schema[path]["POST"].as_strategy(GenerationMode.NEGATIVE)
    tried(strategy, [*CHECKS, negative_data_rejection])


def tried(cases: Any, checks: list[Any]) -> None:
    """A few requests, the same ones each time."""

    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: schemathesis.Case) -> None:
        response = case.call()
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # refused before it is read
            return
        case.validate_response(response, checks=checks)

    ask()
