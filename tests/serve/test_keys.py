"""Keys with stores and rights: what each may do, and what it cannot learn of the others."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.serve.access import RIGHTS
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.slot_table import SlotTable
from gritlm.serve.http.auth import rights_of
from gritlm.serve.key_file import KeyRing, digest, read_keys
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import Served, served
from tests.serve.test_http_layers import all_routes
from tests.structure import ROOT

OWN_KEY = "root-key-0123456789"
KEYS: dict[str, dict[str, Any]] = {
    "ann": {"stores": ["law"], "rights": ["chat", "embed", "search", "write"]},
    "bob": {"stores": ["food"], "rights": ["chat", "search"]},
    "both": {"stores": ["*"], "rights": ["search"]},
    "lost": {"stores": [], "rights": list(RIGHTS)},
    "boss": {"stores": [], "rights": ["admin"]},
    "none": {"stores": ["law"], "rights": []},
}
TEXTS = {"law": "A contract needs an offer.", "food": "Bread is baked from flour."}


def secret(name: str) -> str:
    return f"secret-of-{name}-0123456789"


def toml(keys: dict[str, dict[str, Any]]) -> str:
    tables = []
    for name, entry in keys.items():
        fields = {"name": name, "key": secret(name), **entry}
        lines = [f"{field} = {json.dumps(value)}" for field, value in fields.items()]
        tables.append("\n".join(["[[keys]]", *lines]))
    return "\n\n".join(tables) + "\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("keys") / "keys.toml", toml(KEYS))


@pytest.fixture(scope="module")
def tenants(
    grit: GritLM, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server with the stores ``law`` and ``food``, the key of its options, and those of KEYS."""
    folder = tmp_path_factory.mktemp("stores")
    stores = [StoreAt(folder / name, name=name) for name in TEXTS]
    settings = ServerConfig(port=0, names=("tiny",), api_keys=(OWN_KEY,), key_file=key_file)
    with served(grit, settings, None, *stores) as found:
        for name, text in TEXTS.items():
            body = {"store": name, "documents": [{"id": f"{name}-1", "text": text}]}
            found.http.post("/v1/rag/documents", json=body).raise_for_status()
        yield found


class Client(httpx.Client):
    """A client with the key of this name."""

    def __init__(self, served: Served, name: str) -> None:
        headers = {"Authorization": f"Bearer {secret(name)}", "X-Request-ID": "same"}
        super().__init__(base_url=served.url, headers=headers, timeout=30)


def test_every_route_needs_a_right_or_is_for_every_key(tenants: Served):
    for_all = {"/v1/models", "/v1/models/x", "/tokenize", "/detokenize", "/openapi.json"}
    for_all |= {"/api/tags", "/api/show", "/api/ps", "/api/version", "/health", "/health/live"}
    for_all |= {"/v1/adaptations"}
    schema = tenants.http.get("/openapi.json").json()
    in_schema = {path.partition("{")[0].rstrip("/") for path in schema["paths"]}
    refused = set()
    with Client(tenants, "none") as none:
        for method, path in all_routes(tenants):
            reply = none.request(method, path)
            if reply.status_code == 403:
                assert "The key 'none' lacks the right" in reply.text, path
                refused.add(path)
            elif path.removesuffix("/x") in in_schema:
                assert path in for_all, (method, path, reply.status_code)
    assert {path.removesuffix("/x") for path in refused | for_all} >= in_schema
    assert not refused & for_all


@pytest.mark.parametrize("right", RIGHTS)
def test_a_refusal_names_the_right(tenants: Served, right: str):
    method, path = {
        "chat": ("POST", "/v1/chat/completions"),
        "embed": ("POST", "/v1/embeddings"),
        "search": ("GET", "/v1/rag/documents"),
        "write": ("DELETE", "/v1/rag/documents/law-1"),
        "admin": ("GET", "/metrics"),
    }[right]
    assert rights_of(method, path) == (right,)
    with Client(tenants, "none") as none:
        reply = none.request(method, path)
    assert reply.status_code == 403
    error = reply.json()["error"]
    assert error["code"] == "missing_right"
    assert error["message"].startswith(f"The key 'none' lacks the right '{right}'; ")


def test_a_key_does_what_its_rights_say_and_no_more(tenants: Served):
    with Client(tenants, "ann") as ann, Client(tenants, "bob") as bob:
        assert ann.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        assert bob.post("/v1/embeddings", json={"input": "a"}).status_code == 403
        body = {"documents": [{"id": "new", "text": "An offer ends."}]}
        assert ann.post("/v1/rag/documents", json=body).status_code == 200
        assert ann.delete("/v1/rag/documents/new").status_code == 200
        assert bob.post("/v1/rag/documents", json=body).status_code == 403
        assert bob.delete("/v1/rag/documents/food-1").status_code == 403
        assert ann.get("/metrics").status_code == 403
    with Client(tenants, "boss") as boss, Client(tenants, "both") as both:
        assert boss.get("/metrics").status_code == 200
        question = {"question": "What is there?", "store": "law", "max_tokens": 2}
        assert both.post("/v1/rag/answer", json=question).status_code == 403  # no right to chat
    assert tenants.http.get("/metrics").status_code == 200


def test_errors_of_other_dialects_have_their_form(tenants: Served):
    with Client(tenants, "boss") as boss:
        reply = boss.post("/v1/messages", json={})
    assert reply.status_code == 403
    assert reply.json()["type"] == "error"
    assert "right 'chat'" in reply.json()["error"]["message"]


def about_store(client: httpx.Client, store: str) -> list[httpx.Response]:
    """A request of each kind about a store."""
    chat = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 2}
    body = {"question": "What is there?", "store": store}
    documents = {"documents": [{"text": "a"}], "store": store}
    return [
        client.post("/v1/rag/search", json=body),
        client.post("/v1/rag/answer", json={**body, "max_tokens": 2}),
        client.post("/v1/chat/completions", json={**chat, "rag": {"store": store}}),
        client.post("/v1/chat/completions", json={**chat, "model": f"tiny:rag:{store}"}),
        client.post("/v1/messages", json={**chat, "model": f"tiny:rag:{store}"}),
        client.post("/api/chat", json={**chat, "model": f"tiny:rag:{store}"}),
        client.get("/v1/rag/documents", params={"store": store}),
        client.get("/v1/rag/media/x", params={"store": store}),
        client.get(f"/v1/models/tiny:rag:{store}"),
        client.delete("/v1/rag/documents/food-1", params={"store": store}),
        client.post("/v1/rag/documents", json=documents),
    ]


@pytest.mark.parametrize("name", ["ann", "lost"])
def test_a_store_of_others_looks_like_one_that_does_not_exist(tenants: Served, name: str):
    with Client(tenants, name) as client:
        hidden = about_store(client, "food")
        missing = about_store(client, "fool")
    for one, other in zip(hidden, missing, strict=True):
        assert one.status_code == other.status_code == 404, one.text
        assert one.text == other.text.replace("fool", "food")
        assert {*one.headers} == {*other.headers}
    assert tenants.http.get("/v1/rag/documents?store=food").json()["total"] == 1


def test_lists_show_the_own_stores_alone(tenants: Served):
    expected = {
        "ann": (["law"], ["tiny", "tiny:rag"]),
        "bob": (["food"], ["tiny", "tiny:rag"]),
        "both": (["law", "food"], ["tiny", "tiny:rag:law", "tiny:rag:food"]),
    }
    for name, (stores, models) in expected.items():
        with Client(tenants, name) as client:
            found = client.get("/v1/rag/stores").json()["data"]
            assert [each["id"] for each in found] == stores
            listed = client.get("/v1/models").json()["data"]
            assert [each["id"] for each in listed] == models
            tags = client.get("/api/tags").json()["models"]
            assert [each["name"] for each in tags] == models
            unknown = client.post("/v1/embeddings", json={"input": "a", "model": "x"})
            if unknown.status_code == 404:
                assert unknown.json()["error"]["message"].endswith(", ".join(models))
    with Client(tenants, "boss") as boss:  # no right to search: no model with documents
        (model,) = boss.get("/v1/models").json()["data"]
    assert (model["id"], model["documents"]) == ("tiny", False)


def test_a_key_with_one_store_need_not_name_it(tenants: Served):
    chat = {"messages": [{"role": "user", "content": "What is there?"}], "max_tokens": 2}
    for name, document in (("ann", "law-1"), ("bob", "food-1")):
        with Client(tenants, name) as client:
            reply = client.post("/v1/chat/completions", json={**chat, "model": "tiny:rag"}).json()
            sources = client.post("/v1/rag/search", json={"question": "What?"}).json()["data"]
        assert [each["document_id"] for each in reply["rag"]["sources"]] == [document]
        assert [each["document_id"] for each in sources] == [document]


def cached(client: httpx.Client, text: str) -> int:
    """Send a chat and return the number of its tokens that a KV slot held."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "temperature": 0}
    usage = client.post("/v1/chat/completions", json=body).json()["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"]


def test_no_key_reuses_the_prompts_of_another(tenants: Served):
    text = "A long prompt that only one of the keys has sent before, word for word."
    with Client(tenants, "ann") as ann, Client(tenants, "bob") as bob:
        assert cached(ann, text) == 0
        own = cached(ann, text)
        assert own > 10
        assert cached(bob, text) == 0
        assert cached(tenants.http, text) == 0
        assert cached(bob, text) == cached(ann, text) == own


def test_a_slot_keeps_its_tokens_for_its_owner():
    table = SlotTable(2)
    for owner, tokens in (("a", 0), ("b", 0), ("a", 3), ("b", 3)):
        assignment = table.take([1, 2, 3, 4], owner)
        assert assignment.tokens == tokens
        assert assignment.source is None
        assignment.slot.ids = [1, 2, 3, 4]
        table.free(assignment.slot)


def test_a_path_with_a_line_feed_escapes_no_right(tenants: Served):
    with Client(tenants, "none") as none:
        for path in ("/v1/chat/completions%0A", "/v1/rag/documents%0A", "/metrics%0A"):
            for method in ("GET", "POST"):
                reply = none.request(method, path, **({"json": {}} if method == "POST" else {}))
                assert reply.status_code == 404, (method, path)


def test_a_changed_file_is_read_again(grit: GritLM, tmp_path: Path):
    path = written(tmp_path / "keys.jsonl", line("ann", ["embed"]))
    with (
        served(grit, ServerConfig(port=0, key_file=path)) as found,
        Client(found, "ann") as ann,
        Client(found, "bob") as bob,
    ):
        assert (ann.get("/v1/models").status_code, bob.get("/v1/models").status_code) == (200, 401)
        new = written(tmp_path / "new", line("bob", ["embed"]))
        new.rename(path)
        deadline = time.monotonic() + 20
        while bob.get("/v1/models").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ann.get("/v1/models").status_code == 401


def line(name: str, rights: list[str], **more: Any) -> str:
    hashed = sha256(secret(name).encode()).hexdigest()
    return json.dumps({"name": name, "sha256": hashed, "rights": rights, **more}) + "\n"


def test_a_wrong_or_missing_file_leaves_the_keys_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = written(tmp_path / "keys.jsonl", line("ann", ["chat"]))
    ring = KeyRing([OWN_KEY], path, [])
    before = ring.keys
    assert [hashed for hashed, _ in before] == [digest(OWN_KEY), digest(secret("ann"))]
    for text in ("{", line("ann", ["fly"]), "", line("ann", []) * 2):
        written(path, text)
        os.utime(path, ns=(0, len(text)))
        ring.refresh()
        assert ring.keys is before
        assert "the keys stay as they were" in caplog.text
        caplog.clear()
        ring.refresh()
        assert not caplog.text  # it is reported once
    path.unlink()
    ring.refresh()
    assert ring.keys is before
    written(path, line("bob", ["chat"]))
    ring.refresh()
    assert [hashed for hashed, _ in ring.keys] == [digest(OWN_KEY), digest(secret("bob"))]


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
):
    path = written(tmp_path / "keys.toml", toml({"ann": {"rights": ["chat"]}}))
    path.chmod(mode)
    KeyRing([], path, [])
    assert ("other users can read the key file" in caplog.text) == warns


ENTRY = {"name": "ann", "key": "sesame-open-sesame", "rights": ["chat"]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**ENTRY, "stores": ["x"]}, "there is no store 'x'; expected law, food, '*'"),
        ({**ENTRY, "rights": ["chat", "fly"]}, "unknown right 'fly'; expected chat, embed, "),
        ({**ENTRY, "rights": "chat"}, "'rights' is missing or wrong"),
        ({"name": "ann", "key": "k"}, "'rights' is missing or wrong"),
        ({**ENTRY, "stores": [1]}, "'stores' is missing or wrong"),
        ({**ENTRY, "name": "a b"}, "'name' is missing or wrong"),
        ({**ENTRY, "sesame-open-sesame": 1}, "not a table of known fields"),
        ({**ENTRY, "sha256": "0" * 64}, "expected 'key', or 'sha256'"),
        ({"name": "ann", "rights": []}, "expected 'key', or 'sha256'"),
        ({**ENTRY, "key": 5}, "'key' is no text"),
        ({**ENTRY, "key": "sesame\u00e9"}, "a character that an HTTP header cannot hold"),
        ({**ENTRY, "key": " sesame"}, "begins or ends with a space"),
        ({"name": "ann", "rights": [], "sha256": "sesame"}, "expected 64 hexadecimal digits"),
        (["sesame"], "not a table of known fields"),
    ],
)
def test_a_wrong_entry_is_refused_without_the_key(tmp_path: Path, entry: Any, message: str):
    path = written(tmp_path / "keys.jsonl", line("ok", []) + json.dumps(entry) + "\n")
    with pytest.raises(InputError) as refused:
        read_keys(path, ["law", "food"])
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}: key 2")
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("k.toml", 'keys = "sesame', "no valid TOML at "),
        ("k.toml", 'sesame = "ann"', "expected one table [[keys]] for each key"),
        ("k.toml", "", "expected one table [[keys]] for each key"),
        ("k.jsonl", '{"key": "sesame', "line 1 is no valid JSON"),
        ("k.jsonl", "\n", "has no keys"),
        ("k.jsonl", line("a", []) + line("a", []), "two keys have the name 'a'"),
        ("k.jsonl", line("a", []) + line("a", []).replace('"a"', '"b"'), "are the same key"),
    ],
)
def test_a_wrong_file_is_refused_without_its_content(
    tmp_path: Path, name: str, text: str, message: str
):
    path = written(tmp_path / name, text)
    with pytest.raises(InputError) as refused:
        read_keys(path, [])
    assert message in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_missing_file_and_a_key_given_twice_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no\.toml: the key file cannot be read \(No such file"):
        read_keys(tmp_path / "no.toml", [])
    path = written(tmp_path / "keys.toml", toml({"ann": {"rights": []}}))
    with pytest.raises(InputError, match="'ann' is also a key of --api-key"):
        KeyRing([secret("ann")], path, [])


def test_the_file_in_the_documentation_is_read(tmp_path: Path):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    ((_, access),) = read_keys(written(tmp_path / "keys.toml", block), ["law"])
    assert access.stores == {"law"}
    assert access.rights == {"chat", "embed", "search", "write"}


def test_no_key_is_logged(tenants: Served, caplog: pytest.LogCaptureFixture, key_file: Path):
    caplog.set_level(logging.DEBUG)
    with Client(tenants, "ann") as ann:
        ann.post("/v1/embeddings", json={"input": "a"})
        ann.get("/metrics")
        ann.get("/v1/models", headers={"Authorization": f"Bearer {secret('nobody')}"})
    os.utime(key_file)
    tenants.service.key_ring.refresh()
    records = [record for record in caplog.records if record.name.startswith("gritlm")]
    assert "was read again: 6 keys" in caplog.text
    logged = [
        each.fields["key"]  # type: ignore[attr-defined]
        for each in records
        if "key" in getattr(each, "fields", {})
    ]
    assert logged == ["ann", "ann"]
    whole = "\n".join(f"{record.getMessage()} {vars(record)}" for record in records)
    for each in (*map(secret, KEYS), OWN_KEY, secret("nobody")):
        assert each not in whole
        assert sha256(each.encode()).hexdigest() not in whole
    assert secret("ann") not in repr(tenants.service.key_ring.keys)
    for _, access in tenants.service.key_ring.keys:
        assert access.owner
        assert access.owner not in repr(access)
