from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from gritlm.errors import InputError
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index import index as index_module
from gritlm.rag.index import lance_table
from gritlm.rag.index.index import Index, IndexedDocument
from gritlm.rag.index.lance_errors import lance_errors
from gritlm.rag.index.passage_table import IndexFailedError, Wanted
from gritlm.rag.index.ranking import TableQuery
from gritlm.rag.index.table import TABLE, not_indexed
from gritlm.rag.types import Passage

D = 16
MAKER = ModelIdentity("weights", "digest", "tiny", None, 8, D)


@pytest.fixture
def index(tmp_path) -> Index:
    return Index.open(tmp_path / "index", MAKER)


def vectors(count: int, seed: int = 0, dimension: int = D) -> np.ndarray:
    """Around 40 centres, of length 1."""
    pick = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, dimension))
    made = centres[pick.integers(40, size=count)] + 0.7 * pick.normal(size=(count, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def passage(document: str, number: int = 0, text: str = "text", **others) -> Passage:
    return Passage(
        f"{document}-{number}-{text}",
        document,
        others.pop("title", ""),
        text,
        number,
        0,
        len(text),
        others,
    )


def document(name: str, *texts: str, seed: int = 0, **others):
    """Rows of one document."""
    passages = [passage(name, number, text, **others) for number, text in enumerate(texts)]
    return list(zip(passages, vectors(len(texts), seed), strict=True))


def put(index: Index, *documents, content: str = "v1") -> None:
    rows = [row for each in documents for row in each]
    index.add(rows, contents={each[0][0].document_id: content for each in documents})


def many(count: int, each: int = 1, dimension: int = D, prefix: str = "d"):
    """Rows and contents of many documents."""
    vector_ND = vectors(count * each, seed=1, dimension=dimension)
    rows = [
        (
            passage(f"{prefix}{row // each}", row % each, f"words of row {row}", even=row % 2 == 0),
            vector_ND[row],
        )
        for row in range(count * each)
    ]
    return rows, {row[0].document_id: "v1" for row in rows}


def ids(hits) -> list[str]:
    return [hit.passage.id for hit in hits]


def texts(hits) -> set[str]:
    return {hit.passage.text for hit in hits}


# --- documents ------------------------------------------------------------------------------


def test_what_was_added_comes_back_as_it_was(index):
    given = passage(
        "d",
        text="Grüße,\n'日本' 😀",
        title="T",
        lang="en",
        year=2020,
        f=0.1,
        n=None,
        yes=True,
        big=2**62,
        **{"a.\"b'": "\\"},
    )
    index.add([(given, vectors(1)[0])], contents={"d": "hash"})
    assert list(index.passages()) == list(index.passages("d")) == [given]
    assert index.search(vectors(1)[0], top_k=1)[0].passage == given
    assert index.known() == {"d": "hash"}
    assert index.documents() == [IndexedDocument("d", "T", 1, given.metadata, "hash")]


def test_adding_a_document_again_replaces_its_passages(index):
    put(index, document("a", "one", "two", "three"), document("b", "four"))
    put(index, document("a", "one", "other"), content="v2")
    assert [each.text for each in index.passages("a")] == ["one", "other"]
    assert [each.text for each in index.passages("b")] == ["four"]
    assert index.known() == {"a": "v2", "b": "v1"}
    assert len(index) == 3


def test_new_and_known_documents_go_in_by_one_commit(index, tmp_path):
    put(index, document("a", "one", "two"))
    table = index.table.lance
    before = table.version
    put(index, document("a", "three"), document("c", "four"), content="v2")
    assert table.version == before + 1
    assert sorted(each.text for each in index.passages()) == ["four", "three"]


def test_a_document_that_has_no_passages_any_more_is_taken_out(index):
    put(index, document("a", "one"), document("b", "two"))
    index.add([], contents={"a": "v2"})
    assert index.known() == {"b": "v1"}
    index.add([], contents={"never": "v1"})
    assert index.known() == {"b": "v1"}


def test_deleting_tells_how_many_passages_went(index):
    put(index, document("it's", "one", "two"), document("b", "three"))
    assert index.delete(["it's", "unknown"]) == 2
    assert index.delete(["it's"]) == 0
    assert index.known() == {"b": "v1"}
    with pytest.raises(InputError, match="expected a list"):
        index.delete("b")


def test_passages_of_a_document_come_in_order_and_documents_by_id(index):
    put(index, document("b", *(f"text {number}" for number in range(12))), document("a", "one"))
    assert [each.number for each in index.passages("b")] == list(range(12))
    assert [(each.id, each.passages) for each in index.documents()] == [("a", 1), ("b", 12)]
    assert list(index.passages("unknown")) == []


@pytest.mark.parametrize(
    ("rows", "contents", "said"),
    [
        ([(passage("a"), np.ones(D))], {}, "'contents' does not name"),
        ([(passage("a", 1), np.ones(D))], {"a": "v"}, "expected all from 0"),
        (
            [(passage("a"), np.ones(D)), (passage("a"), np.ones(D))],
            {"a": "v"},
            "expected all from 0",
        ),
        ([(passage("a"), np.ones(3))], {"a": "v"}, "expected \\(16,\\)"),
        ([(passage("a"), np.zeros(D))], {"a": "v"}, "has the length 0"),
        ([(passage("a"), np.full(D, np.nan))], {"a": "v"}, "has the length nan"),
        ([(passage("a", tags=object()), np.ones(D))], {"a": "v"}, "'tags' is of type object"),
        ([(passage("a", n=2**63), np.ones(D))], {"a": "v"}, "'n' is the number"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(index, rows, contents, said):
    with pytest.raises(InputError, match=said):
        index.add(rows, contents=contents)
    assert len(index) == 0


# --- search ---------------------------------------------------------------------------------


def test_an_empty_index_finds_nothing(index):
    assert index.search(vectors(1)[0], top_k=3) == []
    assert index.search(vectors(1)[0], top_k=3, text="words", hybrid=True, where={"a": 1}) == []
    assert (len(index), index.known(), index.documents()) == (0, {}, [])


def test_hits_are_the_nearest_with_their_cosines(index):
    rows, contents = many(300)
    index.add(rows, contents=contents)
    vector_ND = np.stack([vector for _, vector in rows])
    for question in vectors(5, seed=7):
        hits = index.search(question * 3, top_k=10)
        scores = vector_ND @ question
        best = np.argsort(-scores)[:10]
        assert ids(hits) == [rows[row][0].id for row in best]
        assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-5)
        assert [hit.rank for hit in hits] == list(range(1, 11))


def test_asking_for_more_than_there_is_gives_all(index):
    put(index, document("a", "one", "two"))
    assert len(index.search(vectors(1)[0], top_k=10**9)) == 2
    assert len(index.search(vectors(1)[0], top_k=10**9, text="one", hybrid=True)) == 2


def test_equally_near_passages_stand_in_the_order_of_their_ids(index):
    vector_D = vectors(1)[0]
    for name in "dbeac":
        index.add([(passage(name, text=f"of {name}"), vector_D)], contents={name: "v"})
    for top_k in (2, 5):
        found = [hit.passage.document_id for hit in index.search(vector_D, top_k=top_k)]
        assert found == list("abcde")[:top_k]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"lang": "en"}, {"a", "c"}),
        ({"lang": ["en", "fr"]}, {"a", "b", "c"}),
        ({"lang": "en", "year": 2020}, {"a"}),
        ({"year": 2020.0}, {"a"}),
        ({"year": 2021}, {"b"}),
        ({"year": 1}, set()),
        ({"big": 2**53}, {"a"}),
        ({"big": 2**53 + 1}, {"b"}),
        ({"big": 2.0**53}, {"a"}),
        ({"big": 2.0**63}, {"d"}),
        ({"big": 2**63 - 1}, {"c"}),
        ({"big": [2**53 + 1, 2**53 - 1, 0.5]}, {"b"}),
        ({"year": "2020"}, set()),
        ({'it\'s "so".': "x'y\\"}, {"c"}),
        ({"ok": True}, {"c"}),
        ({"ok": 1}, set()),
        ({"lang": None}, {"d"}),
        ({"tiny": 1e-7}, {"d"}),
        ({"document_id": ["a", "d"]}, {"a", "d"}),
        ({"title": "T"}, {"d"}),
        ({"lang": "en' OR 'a'='a"}, set()),
        ("json_get_int(metadata, 'year') > 2020", {"b"}),
        ('"end" > 1 AND number = 0', set()),
        ("document_id LIKE 'a%' OR title = 'T'", {"a", "d"}),
    ],
)
@pytest.mark.parametrize("hybrid", [False, True])
def test_a_filter_lets_through_what_fits_it(index, where, expected, hybrid):
    put(
        index,
        document("a", "a", lang="en", year=2020, big=2**53),
        document("b", "b", lang="fr", year=2021.0, big=2**53 + 1),
        document("c", "c", lang="en", ok=True, big=2**63 - 1, **{'it\'s "so".': "x'y\\"}),
        document("d", "d", lang=None, tiny=1e-7, title="T", big=2.0**63),
    )
    hits = index.search(vectors(1)[0], top_k=4, where=where, text="a b c d", hybrid=hybrid)
    assert texts(hits) == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"lnag": "en"}, "did you mean 'lang'"),
        ({"lnag": None}, "did you mean 'lang'"),
        ({"documentid": "a"}, "did you mean 'document_id'"),
        ("numbr > 3", "did you mean 'number'"),
        ("number >", "cannot be used"),
        ("number + 1", "cannot be used"),
        ("text > 3", "cannot be"),
        ("json_get_int(metadata, 'lang') = 1", "cannot be used"),
        ("lang = 'en'", "no column 'lang'"),
    ],
)
def test_a_filter_that_asks_for_what_is_not_there_is_an_error(index, where, said):
    put(index, document("a", "one", lang="en"))
    with pytest.raises(InputError, match=said) as error:
        index.search(vectors(1)[0], top_k=1, where=where)
    assert ".rs:" not in str(error.value)


def test_a_list_is_searched_by_sql_and_an_object_by_names_with_dots(index):
    put(index, document("a", "t", tags=["x", "y"]), document("b", "t", **{"author.name": "Ann"}))
    for where, wanted in (
        ("json_array_contains(metadata, '$.tags', 'x')", "a"),
        ({"author.name": "Ann"}, "b"),
    ):
        hits = index.search(vectors(1)[0], top_k=4, where=where)
        assert [hit.passage.document_id for hit in hits] == [wanted]


def test_documents_of_ids_that_are_refused_now_are_still_listed_and_deleted(index):
    old = ["..", ".", "x" * 200_000, "a\nb"]
    put(index, *(document(name, "text") for name in old))
    assert {each.id for each in index.documents()} == set(old)
    assert index.delete(old) == len(old)
    assert len(index) == 0


def test_a_narrow_filter_still_fills_the_answer(index):
    rows, contents = many(200)
    index.add(rows, contents=contents)
    wanted = [f"d{row}" for row in range(0, 200, 40)]
    assert len(index.search(vectors(1)[0], top_k=5, where={"document_id": wanted})) == 5


def test_words_find_what_the_vector_does_not(index):
    rows, contents = many(200)
    index.add(rows, contents=contents)
    question = vectors(1, seed=5)[0]
    plain = index.search(question, top_k=3)
    far = min(rows, key=lambda row: float(row[1] @ question))
    put(index, [(passage("rare", text="The xylophone, a NAÏVE one"), far[1])])
    hits = index.search(question, top_k=3, text="naive xylophones?", hybrid=True)
    assert "rare" in [hit.passage.document_id for hit in hits]
    assert "rare" not in [hit.passage.document_id for hit in plain]
    score = next(hit.score for hit in hits if hit.passage.document_id == "rare")
    assert score == pytest.approx(float(far[1] @ question), abs=1e-5)
    assert [hit.rank for hit in hits] == [1, 2, 3]


def test_titles_and_words_of_other_scripts_are_found(index):
    put(
        index,
        document("a", "one", title="Xylophones"),
        document("b", "猫整天睡觉，狗喜欢散步"),
        document("c", "three"),
    )
    for words, name in (("xylophone", "a"), ("睡觉", "b")):
        scored = TableQuery(index.table, vectors(1)[0], Wanted(), exact=True).worded(words, 5)
        assert [each.document_id for _, each in scored] == [name]


@pytest.mark.parametrize("words", ["", "the", "?!", 'a" AND (b', "'", "-x +y title:z", "\n" * 9])
def test_any_words_can_be_asked_for(index, words):
    put(index, document("a", "one", "two"))
    assert len(index.search(vectors(1)[0], top_k=2, text=words, hybrid=True)) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 1, "hybrid": True}, "needs the words"),
        ({"top_k": 1, "where": ""}, "where is empty"),
    ],
)
def test_a_question_that_makes_no_sense_is_an_error(index, options, said):
    with pytest.raises(InputError, match=said):
        index.search(vectors(1)[0], **options)


def test_a_question_with_another_vector_is_an_error(index):
    with pytest.raises(InputError, match="the question's vector has the shape"):
        index.search(np.ones(3), top_k=1)


def test_equal_texts_are_found_once_and_name_all_their_documents(index):
    near, far = vectors(2)
    for name in "ba":
        index.add([(passage(name, text="the same"), near)], contents={name: "v"})
    index.add([(passage("c", text="another"), far)], contents={"c": "v"})
    for words in (None, "the same"):
        found = index.search(near, top_k=2, text=words, hybrid=words is not None)
        assert [hit.passage.text for hit in found] == ["the same", "another"]
        assert [hit.rank for hit in found] == [1, 2]
        assert [hit.passage.document_id for hit in found] == ["a", "c"]
        assert [hit.also_in for hit in found] == [("b",), ()]


@pytest.mark.parametrize("where", [None, {"lang": "en"}])
def test_a_thousand_equal_texts_leave_room_for_others(index, where):
    near, far = vectors(2)
    rows = [(passage(f"d{n}", text=f"copy {n % 3}", lang="en"), near) for n in range(1000)]
    rows += [(passage(f"e{n}", text=f"other {n}", lang="en"), far) for n in range(4)]
    index.add(rows, contents={row[0].document_id: "v" for row in rows})
    found = index.search(near, top_k=6, where=where)
    assert texts(found) == {"copy 0", "copy 1", "copy 2", "other 0", "other 1", "other 2"}
    assert len(found[0].also_in) > 5


# --- the approximate index, and growth -------------------------------------------------------


def test_the_approximate_index_finds_nine_of_ten_of_the_nearest(tmp_path):
    rows, contents = many(2000, dimension=64)
    maker = replace(MAKER, dimension=64)
    near = Index.open(tmp_path / "index", maker, exact_below=1000)
    near.add(rows, contents=contents)
    near.optimise()
    assert not_indexed(near.table.lance) == 0
    vector_ND = np.stack([vector for _, vector in rows])
    found = 0
    questions = vectors(20, seed=3, dimension=64)
    for question in questions:
        best = {rows[row][0].id for row in np.argsort(-(vector_ND @ question))[:10]}
        found += len(best & set(ids(near.search(question, top_k=10))))
    assert found / (10 * len(questions)) > 0.9


def test_rows_that_came_after_the_indices_are_found_too(tmp_path):
    index = Index.open(tmp_path / "index", MAKER, exact_below=100)
    rows, contents = many(300)
    index.add(rows, contents=contents)
    index.optimise()
    put(index, document("late", "xylophone", seed=42))
    question = vectors(1, seed=42)[0]
    assert not_indexed(index.table.lance) == 1
    assert index.search(question, top_k=1)[0].passage.document_id == "late"
    assert TableQuery(index.table, question, Wanted(), exact=True).worded("xylophone", 1)
    index.optimise()
    assert not_indexed(index.table.lance) == 0
    assert index.search(question, top_k=1)[0].passage.document_id == "late"


def test_a_narrow_filter_fills_the_answer_from_the_approximate_index_too(tmp_path):
    index = Index.open(tmp_path / "index", MAKER, exact_below=100)
    rows, contents = many(1000)
    index.add(rows, contents=contents)
    index.optimise()
    wanted = {"document_id": [f"d{row}" for row in range(0, 1000, 200)]}
    assert len(index.search(vectors(1)[0], top_k=5, where=wanted)) == 5


def test_many_small_batches_stay_in_few_files(index, monkeypatch):
    monkeypatch.setattr(index_module, "COMMITS", 8)
    for start in range(20):
        put(index, document(f"d{start}", "one", "two"))
    assert index.table.lance.stats()["fragment_stats"]["num_fragments"] < 10
    assert len(index) == 40
    assert len(index.known()) == 20


def test_adding_takes_as_long_at_the_end_as_at_the_beginning(index):
    seconds = []
    for start in range(12):
        rows, contents = many(250, prefix=f"{start}-")
        started = perf_counter()
        index.add(rows, contents=contents)
        seconds.append(perf_counter() - started)
    assert len(index) == 3000
    assert min(seconds[6:]) < 4 * min(seconds[:6])


def test_optimising_an_empty_index_and_a_tiny_one_works(tmp_path):
    index = Index.open(tmp_path / "index", MAKER, exact_below=1)
    index.optimise()
    put(index, document("a", "one"))
    index.optimise()
    assert texts(index.search(vectors(1)[0], top_k=1)) == {"one"}


def test_an_index_whose_making_was_cut_short_gets_its_index_of_words(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lance_table, "index_words", lambda table: None)
        put(Index.open(tmp_path / "index", MAKER), document("a", "one"))
    index = Index.open(tmp_path / "index", MAKER)
    assert texts(index.search(vectors(1)[0], top_k=1, text="one", hybrid=True)) == {"one"}


# --- opening --------------------------------------------------------------------------------


def test_an_index_is_there_when_it_is_opened_again(tmp_path):
    put(Index.open(tmp_path / "index", MAKER), document("a", "one"))
    again = Index.open(str(tmp_path / "index"), replace(MAKER, name="elsewhere"), create=False)
    assert again.known() == {"a": "v1"}


def test_an_address_of_a_store_of_objects_is_taken(tmp_path):
    index = Index.open(f"file://{tmp_path}/index", MAKER)
    put(index, document("a", "one"))
    assert texts(index.search(vectors(1)[0], top_k=1)) == {"one"}


@pytest.mark.parametrize("change", [{"model": "other"}, {"digest": "other"}, {"dimension": 8}])
def test_the_index_of_another_model_is_refused(tmp_path, change):
    put(Index.open(tmp_path / "index", MAKER), document("a", "one"))
    with pytest.raises(InputError, match=r"made by tiny .*not by big .*into another folder"):
        Index.open(tmp_path / "index", replace(MAKER, name="big", **change))


def test_the_index_of_another_version_is_refused_also_after_it_was_compacted(tmp_path, monkeypatch):
    index = Index.open(tmp_path / "index", MAKER)
    put(index, document("a", "one"))
    put(index, document("a", "two"))
    index.optimise()
    monkeypatch.setattr("gritlm.rag.index.schema.VERSION", 3)
    monkeypatch.setattr("gritlm.rag.index.schema.READABLE", (3,))
    with pytest.raises(InputError, match=r"format 2\), not by .*format 3\)"):
        Index.open(tmp_path / "index", MAKER)


def test_a_table_that_is_not_ours_is_refused(tmp_path):
    import lancedb

    lancedb.connect(tmp_path / "index").create_table(TABLE, [{"a": 1}])
    with pytest.raises(InputError, match="gritlm did not make"):
        Index.open(tmp_path / "index", MAKER)


def test_where_there_is_no_index_none_is_made_unless_asked_for(tmp_path):
    with pytest.raises(InputError, match="there is no index"):
        Index.open(tmp_path / "none", MAKER, create=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="there is no index"):
        Index.open(tmp_path, MAKER, create=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Index.open(tmp_path / "file", MAKER)


def test_a_damaged_table_is_told(tmp_path):
    put(Index.open(tmp_path / "index", MAKER), document("a", "one"))
    for file in (tmp_path / "index").rglob("*.manifest"):
        file.write_bytes(b"nonsense" * 9)
    with pytest.raises(
        IndexFailedError, match=r"manifest is not as it was written; run: gritlm store rebuild"
    ):
        Index.open(tmp_path / "index", MAKER)


def test_damage_is_not_taken_for_a_wrong_filter(index, tmp_path):
    put(index, document("a", "one", lang="en"))
    for file in (tmp_path / "index" / "passages.lance" / "data").iterdir():
        file.write_bytes(b"nonsense" * 99)
    with pytest.raises(IndexFailedError, match="gritlm store rebuild"):
        index.search(vectors(1)[0], top_k=1, where={"lang": "en"})


@pytest.mark.parametrize(
    ("place", "said", "advice"),
    [
        ("/p", "LanceError(IO): No space left on device", "free some space"),
        ("/p", "Permission denied (os error 13)", "allow this user"),
        ("s3://b/p", "LanceError(IO): no answer", "see that it can be reached"),
        ("/p", "LanceError(IO): file size is too small", "gritlm store rebuild STORE"),
    ],
)
def test_a_failure_says_what_to_do(place, said, advice):
    with pytest.raises(IndexFailedError, match=advice), lance_errors(place):
        raise RuntimeError(said)


def test_what_is_there_can_be_listed_and_deleted_without_the_model(tmp_path):
    put(Index.open(tmp_path / "index", MAKER), document("a", "one", "two"), document("b", "three"))
    index = Index.open(tmp_path / "index", None)
    assert [(each.id, each.passages) for each in index.documents()] == [("a", 2), ("b", 1)]
    assert index.delete(["a"]) == 2
    with pytest.raises(InputError, match="open it with the model"):
        index.search(vectors(1)[0], top_k=1)
    with pytest.raises(InputError, match="open it with the model"):
        put(index, document("c", "four"))
    with pytest.raises(InputError, match="there is no index"):
        Index.open(tmp_path / "none", None)


# --- other processes ------------------------------------------------------------------------


def test_a_reader_sees_what_another_writes(tmp_path):
    writer = Index.open(tmp_path / "index", MAKER)
    reader = Index.open(tmp_path / "index", MAKER, create=False)
    assert (len(reader), reader.known()) == (0, {})
    put(writer, document("a", "one"))
    assert texts(reader.search(vectors(1)[0], top_k=1)) == {"one"}
    assert reader.known() == {"a": "v1"}
    put(writer, document("a", "two"), content="v2")
    writer.optimise()
    assert texts(reader.search(vectors(1)[0], top_k=2)) == {"two"}
    put(reader, document("b", "three"))
    assert writer.known() == {"a": "v2", "b": "v1"}


def test_a_full_disk_leaves_what_was_there(index):
    put(index, document("a", "one"))
    rows, contents = many(500)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        for known in ({}, {"a": "v2"}):  # rows are appended, and rows are replaced
            with pytest.raises(IndexFailedError, match="File too large"):
                index.add(rows, contents=contents | known)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert texts(index.search(vectors(1)[0], top_k=5)) == {"one"}
    index.add(rows, contents=contents)
    assert len(index) == 501


def test_the_library_prints_nothing(index, capfd):
    put(index, document("a", "one"))
    index.optimise()
    index.search(vectors(1)[0], top_k=1, text="one", hybrid=True)
    index.delete(["a"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files here")
def test_putting_files_together_leaves_none_open(tmp_path):
    """LanceDB keeps an index of words that is large enough open, and every new one with it."""

    def text(number: int) -> str:
        return " ".join(f"w{(number * 7919 + i * 104729) % 5000}" for i in range(400))

    index = Index.open(tmp_path / "index", MAKER)
    put(index, *(document(f"d{number}", text(number), seed=number) for number in range(40)))
    index.optimise()
    for number in range(40, 44):
        put(index, document(f"d{number}", text(number), seed=number))
        index.optimise()
    files = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert not [each for each in files if each.startswith(str(tmp_path))]
