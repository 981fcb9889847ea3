"""Stores of documents whose passages are in another database."""

from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.rag import AnswerOptions, RagEngine, workspace
from gritlm.rag.index import addresses
from gritlm.rag.retrieve import Search
from gritlm.serve.config import ServerConfig
from gritlm.serve.stores import StoreAt, require_distinct
from tests.rag.conftest import QUESTION, TEXTS
from tests.serve.conftest import served

DOCUMENTS = [
    {"id": f"d{n}", "text": text, "metadata": {"n": n % 2}} for n, text in enumerate(TEXTS)
]


@pytest.fixture
def elsewhere(database, address):
    return "qdrant" if database == "qdrant" else address


@pytest.mark.parametrize("database", ["qdrant", "postgres"])
def test_answers_and_hits_are_those_with_lancedb(grit, tmp_path, elsewhere):
    options = AnswerOptions(top_k=3)
    found = []
    for name, index in (("lance", None), ("other", elsewhere)):
        with RagEngine.open(tmp_path / name, grit, index=index) as engine:
            engine.add(DOCUMENTS)
            assert engine.add(DOCUMENTS).unchanged == len(DOCUMENTS)
            hits = engine.find(QUESTION, Search(top_k=5, rerank=4, filter={"n": [0, 1]}))
            answer = engine.answer(QUESTION, options, max_new_tokens=8)
            assert engine.delete("d3") == 1
            assert {each.id for each in engine.documents()} == {"d0", "d1", "d2", "d4"}
        with RagEngine.open(tmp_path / name, grit, read_only=True) as reader:
            assert len(reader.find(QUESTION, Search(top_k=9))) == 4
            assert reader.answer(QUESTION, max_new_tokens=2).trace.tokens_read > 0
        found.append((hits, answer))
    (lance_hits, lance_answer), (hits, answer) = found
    assert [hit.passage for hit in hits] == [hit.passage for hit in lance_hits]
    expected = [hit.score for hit in lance_hits]
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-5)
    assert answer.text == lance_answer.text
    assert answer.trace.tokens_read == lance_answer.trace.tokens_read


def test_a_server_searches_an_embedded_qdrant(grit, tmp_path):
    store = StoreAt(tmp_path / "store", index="qdrant")
    with served(grit, ServerConfig(port=0), None, store) as found:
        added = found.http.post("/v1/rag/documents", json={"documents": DOCUMENTS})
        assert added.status_code == 200, added.text
        body = {"question": QUESTION, "top_k": 2, "filter": {"n": 1}}
        hits = found.http.post("/v1/rag/search", json=body).json()["data"]
        assert {hit["document_id"] for hit in hits} == {"d1", "d3"}
        for path in ("/v1/rag/search", "/v1/rag/answer"):
            refused = found.http.post(path, json=body | {"hybrid": True})
            assert refused.status_code == 400, refused.text
            assert "search by words" in refused.json()["error"]["message"]
        assert found.http.delete("/v1/rag/documents/d1").status_code == 200
        assert found.http.post("/v1/rag/answer", json=body | {"max_tokens": 2}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:secret@host/db",
        "postgresql://me@host/db?password=secret",
        "qdrant://:secret@host:6333/c",
        "qdrant+https://host/c?api_key=secret",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_shown(grit, tmp_path, address):
    with pytest.raises(InputError, match="leave it out and set") as error:
        RagEngine.open(tmp_path / "store", grit, index=address)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "store").exists()


def test_two_stores_with_an_embedded_qdrant_each_are_two(grit, tmp_path):
    stores = [StoreAt(tmp_path / name, name=name) for name in ("a", "b")]
    for store in stores:
        RagEngine.open(store.folder, grit, index="qdrant").close()
        assert workspace.address(store.folder) == f"qdrant://{store.folder / 'qdrant'}"
    require_distinct(stores)


@pytest.mark.parametrize("name", ["my notes#1", "a?b", "50%41"])
def test_a_folder_of_any_name_holds_an_embedded_qdrant(grit, tmp_path, name):
    with RagEngine.open(tmp_path / name, grit, index="qdrant") as engine:
        engine.add(DOCUMENTS[:1])
    assert [each.id for each in workspace.documents(tmp_path / name)] == ["d0"]
    assert (tmp_path / name / "qdrant").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("library", "extra", "address"),
    [
        ("qdrant_client", "qdrant", "qdrant:///tmp/none"),
        ("psycopg", "postgres", "postgresql://host/db"),
    ],
)
def test_a_missing_client_is_named_with_its_extra(monkeypatch, library, extra, address):
    from gritlm import errors

    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == library else name)
    with pytest.raises(errors.MissingExtraError, match=rf"needs {library}.*\[{extra}\]"):
        addresses.open_table(address, None, create=False)
