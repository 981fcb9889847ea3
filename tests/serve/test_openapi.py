"""The schema of the API is complete: what every route says about itself."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gritlm.serve.api import operations
from tests.serve.conftest import Served
from tests.serve.test_http_layers import all_routes


@pytest.fixture(scope="module")
def schema(live: Served) -> dict[str, Any]:
    return live.http.get("/openapi.json").json()


def test_every_route_has_a_summary_a_description_and_schemas(schema):
    for path, found in schema["paths"].items():
        for method, operation in found.items():
            name = f"{method} {path}"
            assert operation["summary"], name
            assert operation["description"], name
            assert operation["tags"], name
            answer = operation["responses"]["200"]["content"]
            assert all(each.get("schema") for each in answer.values()), name
            assert {"4XX", "5XX"} <= operation["responses"].keys(), name
            if method == "post":
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                assert set(body) == {"$ref"} or "properties" in body, name
            for parameter in operation.get("parameters", []):
                assert parameter["schema"], (name, parameter["name"])


def test_every_route_of_the_application_is_in_the_schema(live: Served, schema):
    walked = {path for _, path in all_routes(live)}
    known = {re.sub(r"\{[^}]*\}", "x", path) for path in schema["paths"]}
    assert walked - known == {"/openapi.json", *operations.page()}
