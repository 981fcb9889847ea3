"""Several stores on one server: each has its own documents, and a request names one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.rag import RagEngine
from gritlm.rag.kvstore.errors import StoreLockedError
from gritlm.serve.config import ServerConfig
from gritlm.serve.stores import MEMORY_BYTES, StoreAt, open_engines, require_distinct
from tests import tiny
from tests.serve.conftest import Served, served

TEXTS = {"law": "A contract needs an offer.", "food": "Bread is baked from flour."}
ASKED = {"question": "What is there?", "top_k": 5}
SHORT = {"max_tokens": 2}


@pytest.fixture(scope="module")
def both(grit: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the stores ``law`` and ``food`` of one document each."""
    folder = tmp_path_factory.mktemp("stores")
    stores = [StoreAt(folder / name, name=name) for name in TEXTS]
    with served(grit, ServerConfig(port=0, names=("tiny",)), None, *stores) as found:
        for name, text in TEXTS.items():
            body = {"store": name, "documents": [{"id": f"{name}-1", "text": text}]}
            found.http.post("/v1/rag/documents", json=body).raise_for_status()
        yield found


@pytest.mark.parametrize("name", list(TEXTS))
def test_each_store_has_its_own_documents(both: Served, name: str):
    found = both.http.post("/v1/rag/search", json={**ASKED, "store": name}).json()
    assert [hit["document_id"] for hit in found["data"]] == [f"{name}-1"]
    listed = both.http.get("/v1/rag/documents", params={"store": name}).json()
    assert [each["id"] for each in listed["data"]] == [f"{name}-1"]
    answer = both.http.post("/v1/rag/answer", json={**ASKED, **SHORT, "store": name}).json()
    assert [each["document_id"] for each in answer["sources"]] == [f"{name}-1"]
    assert answer["trace"]["tokens_reused"] > 0


def test_stores_share_no_blocks(both: Served):
    law, food = (both.service.stores.engines[name].store for name in TEXTS)
    assert law.stats().blocks > 0
    assert not set(law._access.entries()) & set(food._access.entries())


def test_a_document_is_deleted_from_the_named_store_alone(both: Served):
    for name in TEXTS:
        body = {"store": name, "documents": [{"id": "same", "text": f"{name} of today."}]}
        both.http.post("/v1/rag/documents", json=body).raise_for_status()
    gone = both.http.delete("/v1/rag/documents/same", params={"store": "food"})
    assert gone.status_code == 200
    counts = {
        each["id"]: each["documents"] for each in both.http.get("/v1/rag/stores").json()["data"]
    }
    assert counts == {"law": 2, "food": 1}
    both.http.delete("/v1/rag/documents/same", params={"store": "law"}).raise_for_status()


def test_a_request_names_one_of_several_stores(both: Served):
    for reply in (
        both.http.post("/v1/rag/search", json=ASKED),
        both.http.get("/v1/rag/documents"),
        both.http.delete("/v1/rag/documents/law-1"),
        both.http.post("/v1/rag/documents", json={"documents": [{"text": "a"}]}),
        both.http.post("/v1/rag/answer", json=ASKED),
    ):
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["message"] == "'store' is missing; expected law or food"
        assert error["param"] == "store"


def test_an_unknown_store_is_named_with_the_known_ones(both: Served):
    reply = both.http.post("/v1/rag/search", json={**ASKED, "store": "x\x1b"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "store_not_found"
    assert reply.json()["error"]["message"] == "There is no store 'x\\x1b'; expected law or food"


def chat(served: Served, model: str, **fields: object) -> dict:
    messages = [{"role": "user", "content": "What is there?"}]
    body = {"model": model, "messages": messages, **SHORT, **fields}
    return served.http.post("/v1/chat/completions", json=body).json()


def test_a_chat_names_its_store_by_model_or_field(both: Served):
    for reply in (chat(both, "tiny:rag:food"), chat(both, "tiny", rag={"store": "food"})):
        assert [each["document_id"] for each in reply["rag"]["sources"]] == ["food-1"]
    same = chat(both, "tiny:rag:food", rag={"store": "food", "top_k": 1})
    assert same["model"] == "tiny:rag:food"
    assert "name one store" in chat(both, "tiny:rag:food", rag={"store": "law"})["error"]["message"]
    assert "'store' is missing" in chat(both, "tiny:rag")["error"]["message"]
    unknown = chat(both, "tiny:rag:other")["error"]
    assert unknown["code"] == "model_not_found"
    assert unknown["message"].endswith("this server has tiny, tiny:rag:law, tiny:rag:food")


def test_models_are_listed_with_each_store(both: Served):
    names = [each.id for each in both.openai.models.list()]
    assert names == ["tiny", "tiny:rag:law", "tiny:rag:food"]
    assert both.openai.models.retrieve("tiny:rag:law").id == "tiny:rag:law"
    for name in ("tiny:rag", "tiny:rag:", "tiny:rag:x"):
        assert both.http.get(f"/v1/models/{name}").status_code == 404, name
    tags = both.http.get("/api/tags").json()["models"]
    assert [each["name"] for each in tags] == names


def test_one_store_needs_no_name(live: Served):
    names = [each.id for each in live.openai.models.list()]
    assert names == ["tiny", "small", "tiny:rag", "small:rag"]
    (store,) = live.http.get("/v1/rag/stores").json()["data"]
    assert store["disk_bytes"] > 0
    assert store == {
        "id": "default",
        "object": "rag.store",
        "documents": store["documents"],
        "read_only": False,
        "disk_bytes": store["disk_bytes"],
        "memory_bytes": store["memory_bytes"],
        "model": "tiny",
    }
    named = live.http.post("/v1/rag/search", json={**ASKED, "store": "default"}).json()
    assert named == live.http.post("/v1/rag/search", json=ASKED).json()
    assert chat(live, "tiny:rag:default")["rag"]["sources"]


def test_the_store_named_default_is_that_of_requests_without_a_name(grit: GritLM, tmp_path: Path):
    stores = [StoreAt(tmp_path / "a"), StoreAt(tmp_path / "b", name="other")]
    with served(grit, ServerConfig(port=0, names=("tiny",)), None, *stores) as found:
        body = {"documents": [{"id": "x", "text": "Snow is white."}]}
        found.http.post("/v1/rag/documents", json=body).raise_for_status()
        counts = [each["documents"] for each in found.http.get("/v1/rag/stores").json()["data"]]
        assert counts == [1, 0]
        names = [each.id for each in found.openai.models.list()]
        assert names == ["tiny", "tiny:rag", "tiny:rag:default", "tiny:rag:other"]


def test_metrics_have_the_store(both: Served):
    before = both.http.get("/metrics").text
    both.http.post("/v1/rag/search", json={**ASKED, "store": "law"}).raise_for_status()
    both.http.post("/v1/rag/search", json={**ASKED, "store": "no such"})
    text = both.http.get("/metrics").text
    name = 'gritlm_rag_requests_total{endpoint="/v1/rag/search",store="law"}'
    count = {
        when: float(each.split(name)[1].split()[0]) for when, each in (("b", before), ("a", text))
    }
    assert count["a"] == count["b"] + 1
    assert 'gritlm_rag_documents_added_total{store="food"}' in text
    assert "no such" not in text


@pytest.mark.parametrize(
    ("text", "name", "folder"),
    [
        ("store", "default", "store"),
        ("law=/data/law", "law", "/data/law"),
        ("./a=b", "default", "a=b"),
        ("a=b=c", "a", "b=c"),
        ("=x", "default", "=x"),
    ],
)
def test_a_store_is_a_folder_with_or_without_a_name(text: str, name: str, folder: str):
    assert StoreAt.parse(text) == StoreAt(Path(folder), name=name)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "x" * 65, "latest", "a\n"])
def test_a_name_that_requests_cannot_use_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="store name"):
        StoreAt(tmp_path, name=name)


def test_a_name_without_a_folder_is_refused():
    with pytest.raises(InputError, match="the folder is missing"):
        StoreAt.parse("law=")


def test_two_stores_share_neither_name_nor_folder_nor_index(grit: GritLM, tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    a = StoreAt(tmp_path / "a", name="a")
    for other in (tmp_path / "a", tmp_path / "link", tmp_path / "b" / ".." / "a"):
        with pytest.raises(InputError, match="the stores 'a' and 'b' are both in"):
            require_distinct([a, StoreAt(other, name="b")])
    with pytest.raises(InputError, match="two stores have the name 'a'"):
        require_distinct([a, StoreAt(tmp_path / "c", name="a")])
    for name in ("one", "two"):
        RagEngine.open(tmp_path / name, grit, index=str(tmp_path / "table")).close()
    stores = [StoreAt(tmp_path / name, name=name) for name in ("one", "two")]
    with pytest.raises(InputError, match=r"'one' and 'two' are both in .*table"):
        require_distinct(stores)


def test_a_store_of_another_model_is_refused_with_the_command_that_indexes(
    grit: GritLM, tmp_path: Path
):
    made = tiny.folder(tmp_path / "other", max_position_embeddings=256)
    RagEngine.open(tmp_path / "b c", GritLM(made, dtype="float32", device="cpu")).close()
    stores = [StoreAt(tmp_path / "a", name="a"), StoreAt(tmp_path / "b c", name="b")]
    with pytest.raises(InputError) as refused:
        open_engines(stores, grit, longest=128)
    assert str(refused.value).startswith("store 'b': ")
    assert str(refused.value).endswith(
        f"gritlm index DOCUMENTS --to '{tmp_path}/b c-new' --model {grit.source}"
    )
    with RagEngine.open(tmp_path / "a", grit):  # the store that had been opened is closed
        pass


def test_each_store_is_locked_for_one_server(grit: GritLM, tmp_path: Path):
    stores = [StoreAt(tmp_path / name, name=name) for name in ("a", "b")]
    engines = open_engines(stores, grit, longest=128)
    assert sum(each.store.stats().memory_bytes for each in engines.values()) == MEMORY_BYTES
    try:
        for store in stores:
            with pytest.raises(StoreLockedError):
                RagEngine.open(store.folder, grit)
    finally:
        for engine in engines.values():
            engine.close()
