"""An index of passages, whatever database holds it."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from gritlm.errors import InputError
from gritlm.rag.index.index import Index, IndexedDocument
from gritlm.rag.index.passage_table import IndexFailedError
from tests.rag import test_index as rows
from tests.rag.test_index import MAKER, document, ids, many, passage, put, texts, vectors


@pytest.fixture
def index(address):
    opened = Index.open(address, MAKER)
    yield opened
    opened.close()


def test_passages_come_back_as_they_were(index):
    given = passage(
        "d",
        text="Grüße,\n'日本' 😀 \x1b0 \x1b",
        title="T",
        lang="en",
        year=2020,
        f=0.1,
        n=None,
        yes=True,
        tags=["x", 1],
        big=2**62,
        **{"a.\"b'": "\\"},
    )
    index.add([(given, vectors(1)[0])], contents={"d": "hash"})
    assert list(index.passages()) == list(index.passages("d")) == [given]
    (hit,) = index.search(vectors(1)[0], top_k=1)
    assert hit.passage == given
    assert index.known() == {"d": "hash"}
    assert index.documents() == [IndexedDocument("d", "T", 1, given.metadata, "hash")]
    assert index.damages == []


@pytest.mark.parametrize("database", ["qdrant", "postgres"])
def test_zero_characters_are_kept(index):
    put(index, [(passage("d", text="a\x00b\x1b0", title="\x00"), vectors(1)[0])])
    (found,) = index.passages("d")
    assert (found.text, found.title) == ("a\x00b\x1b0", "\x00")
    assert index.damages == []


def test_hits_are_those_of_an_exact_search_by_lancedb(index, new):
    found, contents = many(300, each=2)
    index.add(found, contents=contents)
    lance = Index.open(new("lance"), MAKER)
    lance.add(found, contents=contents)
    for where in (None, {"even": True}, {"even": [False, None]}, {"document_id": ["d1", "d9"]}):
        for question in vectors(4, seed=7):
            hits = index.search(question, top_k=10, where=where)
            expected = lance.search(question, top_k=10, where=where)
            assert ids(hits) == ids(expected)
            scores = [hit.score for hit in expected]
            assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)


def test_documents_are_replaced_and_deleted(index):
    put(index, document("a", "one", "two", "three"), document("b", "four"), document("it's", "x"))
    put(index, document("a", "one", "other"), content="v2")
    assert [each.text for each in index.passages("a")] == ["one", "other"]
    assert index.known() == {"a": "v2", "b": "v1", "it's": "v1"}
    assert len(index) == 4
    assert index.delete(["it's", "unknown"]) == 1
    index.add([], contents={"b": "v2"})
    assert index.known() == {"a": "v2"}
    assert texts(index.search(vectors(1)[0], top_k=9)) == {"one", "other"}
    assert (index.delete(["a"]), len(index), list(index.passages())) == (2, 0, [])
    assert index.search(vectors(1)[0], top_k=1) == []


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"lang": "en"}, {"a", "c"}),
        ({"lang": ["en", "fr"]}, {"a", "b", "c"}),
        ({"lang": "en", "year": 2020}, {"a"}),
        ({"year": 2020.0}, {"a"}),
        ({"year": 2021}, {"b"}),
        ({"year": 1}, set()),
        ({"big": 2**53 + 1}, {"b"}),
        ({"big": 2.0**53}, {"a"}),
        ({"big": 2.0**63}, {"d"}),
        ({"big": [2**53 + 1, 2**53 - 1, 0.5]}, {"b"}),
        ({"year": "2020"}, set()),
        ({'it\'s "so".': "x'y\\"}, {"c"}),
        ({"ok": True}, {"c"}),
        ({"ok": 1}, set()),
        ({"ok": None}, {"a", "b", "d"}),
        ({"lang": None}, {"d"}),
        ({"tiny": 1e-7}, {"d"}),
        ({"tags": "x"}, set()),
        ({"document_id": ["a", "d"]}, {"a", "d"}),
        ({"title": "T"}, {"d"}),
        ({"lang": "en' OR 'a'='a"}, set()),
    ],
)
def test_a_filter_selects_the_same_passages(index, where, expected):
    put(
        index,
        document("a", "a", lang="en", year=2020, big=2**53, tags=["x"]),
        document("b", "b", lang="fr", year=2021.0, big=2**53 + 1),
        document("c", "c", lang="en", ok=True, big=2**63 - 1, **{'it\'s "so".': "x'y\\"}),
        document("d", "d", lang=None, tiny=1e-7, title="T", big=2.0**63),
    )
    assert texts(index.search(vectors(1)[0], top_k=4, where=where)) == expected


def test_an_unknown_name_in_a_filter_is_an_error(index):
    put(index, document("a", "one", lang="en"))
    with pytest.raises(InputError, match="did you mean 'lang'"):
        index.search(vectors(1)[0], top_k=1, where={"lnag": "en"})
    with pytest.raises(InputError, match="empty list"):
        index.search(vectors(1)[0], top_k=1, where={"lang": []})


@pytest.mark.parametrize("database", ["qdrant", "postgres"])
def test_a_filter_in_sql_is_refused(index):
    put(index, document("a", "one", lang="en"))
    with pytest.raises(InputError, match=r"'1=1; --' is SQL, which only an index of LanceDB takes"):
        index.search(vectors(1)[0], top_k=1, where="1=1; --")


def test_equal_texts_are_one_hit_and_ties_are_sorted_by_id(index):
    near, far = vectors(2)
    found = [(passage(f"d{n}", text=f"copy {n % 3}", lang="en"), near) for n in range(300)]
    found += [(passage(f"e{n}", text=f"other {n}", lang="en"), far) for n in range(4)]
    index.add(found, contents={row[0].document_id: "v" for row in found})
    for where in (None, {"lang": "en"}):
        hits = index.search(near, top_k=6, where=where)
        assert texts(hits) == {"copy 0", "copy 1", "copy 2", "other 0", "other 1", "other 2"}
        assert len(hits[0].also_in) > 5


@pytest.mark.parametrize("database", ["lance", "postgres"])
@pytest.mark.parametrize("words", ["xylophones?", "", "?!", 'a" AND (b', "'", ":* | !", "\x00 a"])
def test_words_find_what_the_vector_does_not(index, words):
    found, contents = many(100)
    index.add(found, contents=contents)
    question = vectors(1, seed=5)[0]
    far = min(found, key=lambda row: float(row[1] @ question))
    put(index, [(passage("rare", text="The xylophones, two of them"), far[1])])
    hits = index.search(question, top_k=3, text=words, hybrid=True)
    assert len(hits) == 3
    assert ("rare" in [hit.passage.document_id for hit in hits]) == (words == "xylophones?")
    plain = index.search(question, top_k=3)
    assert "rare" not in [hit.passage.document_id for hit in plain]


@pytest.mark.parametrize("database", ["qdrant"])
def test_a_search_by_words_is_refused_without_one(index):
    put(index, document("a", "one"))
    with pytest.raises(InputError, match=r"hybrid=True needs a search by words, which qdrant://"):
        index.search(vectors(1)[0], top_k=1, text="one", hybrid=True)


def test_another_process_sees_the_same_and_another_model_is_refused(address, database):
    index = Index.open(address, MAKER)
    put(index, document("a", "one", "two", lang="en"))
    if database == "qdrant":
        index.close()
    reader = Index.open(address, MAKER, create=False)
    assert reader.known() == {"a": "v1"}
    assert len(reader) == 2
    reader.close()
    for change in ({"model": "other"}, {"dimension": 8}):
        with pytest.raises(InputError, match="was made by tiny"):
            Index.open(address, replace(MAKER, **change))
    without = Index.open(address, None, create=False)
    assert [each.id for each in without.documents()] == ["a"]
    assert without.delete(["a"]) == 2
    without.close()
    index.close()


def test_a_missing_index_is_not_created_for_a_reader(address):
    for _ in range(2):
        with pytest.raises(InputError, match="there is no index at"):
            Index.open(address, MAKER, create=False)


def test_searches_in_many_threads_while_documents_change(index):
    found, contents = many(60)
    index.add(found, contents=contents)
    problems: list[object] = []

    def search(seed: int) -> None:
        try:
            for question in vectors(10, seed=seed):
                if len(index.search(question, top_k=5, where={"even": True})) != 5:
                    problems.append("hits are missing")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        put(index, document(f"new{number}", "text"))
    index.delete([f"new{number}" for number in range(5)])
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(index) == 60


def test_a_vector_of_many_dimensions_is_stored_exactly(address):
    maker = replace(MAKER, dimension=2050)
    index = Index.open(address, maker)
    vector_ND = vectors(6, dimension=2050)
    found = [(passage(f"d{n}", text=f"t{n}"), vector_D) for n, vector_D in enumerate(vector_ND)]
    index.add(found, contents={f"d{n}": "v" for n in range(6)})
    index.optimise()
    for n in range(6):
        hit = index.search(vector_ND[n], top_k=1)[0]
        assert (hit.passage.document_id, hit.score) == (f"d{n}", pytest.approx(1, abs=1e-6))
    assert index.damages == []
    index.close()


@pytest.mark.parametrize("database", ["postgres"])
def test_the_approximate_index_of_postgres_finds_nine_of_ten(new, address):
    found, contents = many(1500)
    near = Index.open(address, MAKER, exact_below=1000)
    near.add(found, contents=contents)
    near.optimise()
    exact = Index.open(new("lance"), MAKER)
    exact.add(found, contents=contents)
    hits = total = 0
    for question in vectors(20, seed=3):
        expected = set(ids(exact.search(question, top_k=10)))
        hits += len(expected & set(ids(near.search(question, top_k=10))))
        total += 10
        filtered = near.search(question, top_k=10, where={"document_id": ["d1", "d2"]})
        assert {hit.passage.document_id for hit in filtered} == {"d1", "d2"}
    assert hits >= 0.9 * total
    near.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("qdrant://", "names neither a folder nor a host"),
        ("qdrant://host:6333/a/b", "cannot name a collection"),
        ("qdrant://host:port/a", "cannot be used"),
        ("postgresql://host/db?table=Robert'); DROP", "expected a name of lowercase"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_error(address, said):
    with pytest.raises(InputError, match=said):
        Index.open(address, MAKER)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("qdrant://127.0.0.1:9/passages", "see that it can be reached"),
        ("postgresql://me@127.0.0.1:9/db", "see that the server can be reached"),
    ],
)
def test_a_server_that_is_not_there_is_one_error(address, said):
    with pytest.raises(IndexFailedError, match=said) as error:
        Index.open(address, MAKER)
    assert "\n" not in str(error.value)


def test_damaged_rows_are_left_out(index, database):
    put(index, document("a", "one", "two"), document("b", "three"))
    spoil(index, database)
    assert texts(index.search(vectors(1)[0], top_k=9)) == {"one", "three"}
    (damage,) = index.damages
    assert (damage.document_id, damage.part) == ("a", "text")


def spoil(index: Index, database: str) -> None:
    """Change the text of a passage behind the back of its checksum."""
    table = index.table
    if database == "lance":
        table.lance.update(where="text = 'two'", values={"text": "lies"})
    elif database == "qdrant":
        name, client = table._name, table._client
        (point,) = [
            p for p in client.scroll(name, limit=9)[0] if (p.payload or {}).get("text") == "two"
        ]
        client.set_payload(name, {"text": "lies"}, points=[point.id])
    else:
        with table._pool.connection() as connection:
            connection.execute(
                f"UPDATE {table._address.table} SET text = 'lies' WHERE text = 'two'"
            )


def test_vectors_of_the_rows_are_float32(index):
    put(index, document("a", "one"))
    wanted = rows.document("a", "one")[0][1]
    (row,) = index.table.nearest(wanted, 1, rows.Wanted(), ["id", "vector"], exact=True)
    assert row["vector"].dtype == np.float32
    assert np.array_equal(row["vector"], wanted / np.float32(np.linalg.norm(wanted)))
