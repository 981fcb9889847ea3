"""Questions: usable sentences, key terms, checks of written lines, quoted answers."""

from __future__ import annotations

import json

import pytest

from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.config import QUESTION_KINDS, AdaptConfig
from gritlm.adapt.rows import questions
from gritlm.adapt.rows.key_terms import KeyTerms
from gritlm.adapt.rows.questions import QuestionMaker, quoted, unusable
from gritlm.adapt.rows.sentences import in_context, is_statement, sentences, statements, without
from gritlm.adapt.rows.writers import OPENINGS, OwnWriter, QuestionRequest, messages
from gritlm.adapt.run_folder import MadeRows, RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.errors import InputError
from tests.adapt import made

TEXT = (
    "Cats sleep most of the day. They wake up at night, e.g. to hunt mice in the barn.\n\n"
    "## A heading\n\n- Dogs like long walks in the park!\n\n" + made.TABLE
)


def test_sentences_keep_abbreviations_and_lose_marks():
    assert sentences(TEXT)[:4] == [
        "Cats sleep most of the day.",
        "They wake up at night, e.g. to hunt mice in the barn.",
        "A heading",
        "Dogs like long walks in the park!",
    ]
    assert len(statements(TEXT)) == 3


def test_a_closing_quote_stays_with_its_sentence():
    first = 'The keeper said "the cat sleeps all day." '
    second = "Nobody (in the village) had seen it."
    assert statements(first + second) == [first.strip(), second]


def test_sentences_without_spaces_are_statements():
    first, second = "図書館は毎朝九時に開きます。", "猫は一日に十二時間眠ります。"
    assert statements(first + second) == [first, second]
    assert statements("図書館。") == []


@pytest.mark.parametrize(
    "text",
    [
        made.TABLE,
        "for i in range(10):\n    total += values[i] * weights[i]\n    print(total)",
        "12.5 13.7 14.2 11.8 90.1 22.7 8.25 7.5 6.75 1.0.",
        "A heading without an end",
        "Too short.",
    ],
)
def test_tables_code_and_numbers_are_no_statements(text):
    assert statements(text) == []


def test_a_sentence_that_leans_on_the_one_before_is_shown_after_it():
    second = sentences(TEXT)[1]
    assert in_context(second, TEXT) == f"Cats sleep most of the day. {second}"
    assert in_context("Cats sleep most of the day.", TEXT) == "Cats sleep most of the day."
    assert not is_statement("They sleep.")


def test_a_text_without_a_sentence_keeps_the_others_or_is_none():
    rest = without(TEXT, "Cats sleep most of the day.")
    assert rest is not None
    assert "Cats sleep" not in rest
    assert "Dogs like long walks" in rest
    assert without("Cats sleep most of the day. Dogs walk.", "Dogs walk.") is None


def test_key_terms_are_frequent_in_the_passage_and_rare_elsewhere():
    texts = [made.text(animal, 5) for animal in made.ANIMALS[:12]]
    terms = KeyTerms(texts).of(texts[3], most=2)
    assert terms == ["owl", "owlville"]
    assert KeyTerms(["the same", "the same"]).of("the same") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("How long do cats sleep?", None),
        ("Cats sleep long.", "no question"),
        ("What?", "too short"),
        ("What does the passage say about cats sleeping?", "about the text"),
        ("Why does a worker bee live in summer?", "about something else"),
    ],
)
def test_a_written_line_is_checked(line, reason):
    assert unusable(line, "Cats sleep most of the day.") == reason


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Most of  the day.", "most of the day"),
        ("(100 degrees)", "100 degrees"),
        ("at night", None),
        ("", None),
        ("ost of", None),
        ("cats", None),
    ],
)
def test_an_answer_is_a_span_of_the_sentence_that_the_question_does_not_have(answer, found):
    sentence = "Cats sleep most of the day at 100 degrees."
    assert quoted(answer, sentence, "How long do cats sleep?") == found


def test_equal_questions_of_a_split_are_counted_once():
    rows = [
        {"split": split, "question": question}
        for split, question in (
            ("train", "How long?"),
            ("train", "how LONG"),
            ("held-out", "How long?"),
        )
    ]
    found = questions.distinct(MadeRows(rows))
    assert [row["split"] for row in found.rows] == ["train", "held-out"]
    assert found.counts[questions.REPEATED] == 1


def test_every_kind_is_made_and_nothing_is_asked_twice(tmp_path, model_folder, writer):
    passages = [
        CollectedPassage(str(n), f"d{n}", "", made.text(animal, n), 0)
        for n, animal in enumerate(made.ANIMALS[:20])
    ]
    config = AdaptConfig(documents=("x",), to="y", per_passage=2)
    folder = RunFolder(tmp_path)
    maker = QuestionMaker(config, StartingModel(str(model_folder), "cpu"), writer, passages)
    found = maker.make(folder, progress=False)
    kinds = [row["kind"] for row in found.rows]
    counts = {kind: kinds.count(kind) for kind in QUESTION_KINDS}
    assert counts == {"factual": 40, "topic": 40, "keyword": 20, "claim": 20}
    by_passage = {passage.id: passage.text for passage in passages}
    for row in found.rows:
        if row["kind"] in ("factual", "claim"):
            assert row["sentence"] in by_passage[row["passage"]]
    asked = {row["sentence"] for row in found.rows if row["kind"] == "factual"}
    assert not asked & {row["sentence"] for row in found.rows if row["kind"] == "claim"}
    again = QuestionMaker(config, StartingModel("none"), writer, passages)
    texts = writer.texts
    assert again.make(folder, progress=False).rows == found.rows  # from the finished batches
    assert writer.texts == texts


def test_a_broken_end_of_the_batches_is_made_again(tmp_path):
    folder = RunFolder(tmp_path)
    calls: list[list[int]] = []

    def work(batch):
        calls.append(list(batch))
        return MadeRows([{"n": n} for n in batch])

    whole = folder.in_batches("x.jsonl", [1, 2, 3, 4, 5], work, size=2, progress=False)
    part = folder.path("x.jsonl.part")
    content = part.read_bytes()
    part.write_bytes(content[:-9])
    calls.clear()
    assert folder.in_batches("x.jsonl", [1, 2, 3, 4, 5], work, size=2, progress=False) == whole
    assert calls == [[5]]
    assert part.read_bytes() == content
    calls.clear()
    folder.in_batches("x.jsonl", [1, 2, 3, 4, 6], work, size=2, progress=False)
    assert calls == [[1, 2], [3, 4], [6]]


def test_a_full_disk_is_one_line_that_says_how_to_go_on(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match=r"No space left on device; free some space, and give"):
        folder.write("x.jsonl", [{"a": 1}])
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_state_of_another_version_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    folder.path("adapt.json").parent.mkdir()
    folder.path("adapt.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="no state of a run of this version"):
        folder.open({}, "")


def test_a_written_question_goes_on_from_its_opening(model_folder):
    writer = OwnWriter(StartingModel(str(model_folder), "cpu"))
    text = made.text("owl", 3)
    requests = [QuestionRequest(text, "topic", begin) for begin in OPENINGS["topic"][1:3]]
    found = writer.questions([*requests, QuestionRequest(text)])
    assert [line.startswith(each.opening) for line, each in zip(found, requests, strict=False)] == [
        True,
        True,
    ]
    assert len(found) == 3
    prompts = [messages(each)[-1]["content"] for each in (requests[0], QuestionRequest(text))]
    assert all(str(prompt).startswith(text) for prompt in prompts)
    assert prompts[0] != prompts[1]
