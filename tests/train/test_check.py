"""Files of rows looked through: problems, lengths, and what is pooled and trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from gritlm.errors import InputError
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.train.config import DataConfig, SourceConfig
from gritlm.train.data.validation import ResultLimits, ValidationResult, check_rows
from tests import tiny

GRITLM = ModelSettings(template="gritlm")
PAIR = {"query": ["Find it", "Where is the ball?"], "pos": ["A red ball."], "neg": ["Cats sleep."]}
CHAT = {"text": ["Who reads?", "A model.", "And?", "Cats."]}
SCORED = {"sentence1": ["Same?", "Cats sleep."], "sentence2": "Cats rest.", "score": 4}
RAG = {"question": "Who reads?", "documents": ["A model reads.", "Cats sleep."], "answer": "It."}


@pytest.fixture(scope="module")
def tokens() -> SegmentTokenizer:
    return SegmentTokenizer(tiny.tokenizer())


@pytest.fixture
def found(tokens, tmp_path: Path):
    """Write rows (records, or lines as they are) to ``rows.jsonl`` and check them."""

    def call(
        *rows: dict | str, data: DataConfig | None = None, **options: object
    ) -> ValidationResult:
        file = tmp_path / "rows.jsonl"
        lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return check_rows(SourceConfig(str(file)), tokens, GRITLM, data or DataConfig(), **options)

    return call


def size(tokens: SegmentTokenizer, text: str) -> int:
    return len(tokens.tokenizer(text)["input_ids"])


def marked(findings: ValidationResult) -> list[tuple[str, list[tuple[str, str]]]]:
    ((_, views),) = findings.samples
    return [(each.name, [(p.mark, p.text) for p in each.pieces]) for each in views]


@pytest.mark.parametrize(
    ("row", "kind"),
    [(PAIR, "embedding"), (SCORED, "embedding"), (CHAT, "generative"), (RAG, "rag")],
)
def test_the_kind_is_told_from_the_first_row_that_has_one(found, row, kind):
    assert found(row).kind == kind
    findings = found("{broken", row)
    assert (findings.kind, findings.problem_count) == (kind, 1)


def test_rows_of_no_kind_are_refused(found):
    with pytest.raises(InputError, match=r"none of the first 100 rows .*embedding, generative"):
        found({"a": 1}, {"b": 2})


def test_a_kind_that_is_named_is_taken(found):
    findings = found(PAIR, kind="generative")
    assert (findings.kind, findings.problem_count) == ("generative", 1)


def test_all_problems_are_found_with_their_lines(found, tmp_path):
    findings = found(
        PAIR, "{broken", "", {**PAIR, "pos": []}, PAIR | {"query": "Other?"}, {"query": "x"}
    )
    lines = [problem.removeprefix(f"{tmp_path}/rows.jsonl:")[0] for problem in findings.problems]
    assert lines == ["2", "4", "6"]
    assert (findings.rows, findings.problem_count) == (5, 3)


def test_of_many_problems_the_first_are_kept_and_all_are_counted(found):
    findings = found(PAIR, *["{broken"] * 9, limits=ResultLimits(problems=4))
    assert (len(findings.problems), findings.problem_count) == (4, 9)


def test_duplicates_are_counted_and_measured_once(found):
    findings = found(PAIR, {**PAIR, "pos": [" A  red ball."]}, PAIR)
    assert findings.duplicates == 2
    assert [each.count for each in findings.lengths] == [1, 2]
    assert findings.problem_count == 0


def test_a_negative_nearly_equal_to_a_positive_is_a_problem(found):
    findings = found(PAIR | {"neg": ["Cats sleep.", "A RED ball"]})
    assert findings.nearly_equal == 1
    assert "rows.jsonl:1: negative 2 ('A RED ball') is nearly equal" in findings.problems[0]
    assert (findings.problem_count, findings.refused) == (1, 0)


def test_an_instruction_that_leaves_no_room_is_a_problem(found):
    findings = found(PAIR, data=DataConfig(query_max_len=10))
    assert findings.problem_count == 1
    assert "rows.jsonl:1: query 'Where is the ball?' has no room: its" in findings.problems[0]
    assert "query_max_len is 10" in findings.problems[0]
    assert findings.refused == 1


def test_a_row_without_an_answer_after_cutting_is_a_problem(found, tokens):
    question = "Who reads and writes?"
    long = {"text": [question, "A model."]}
    room = size(tokens, f"<|user|>\n{question}\n<|assistant|>\n")
    findings = found(CHAT, long, data=DataConfig(generative_max_len=room))
    assert findings.unlabelled == 1
    assert f"rows.jsonl:2: cut to {room} tokens" in findings.problems[0]
    assert findings.refused == 0
    assert found(long, data=DataConfig(generative_max_len=room + 1)).unlabelled == 0


def test_of_an_embedding_row_the_text_is_pooled_and_the_header_is_not(found):
    assert marked(found(PAIR)) == [
        (
            "query",
            [("header", "<s><|user|>\nFind it\n<|embed|>\n"), ("pooled", "Where is the ball?")],
        ),
        ("positive", [("header", "<s><|embed|>\n"), ("pooled", "A red ball.")]),
        ("negative", [("header", "<s><|embed|>\n"), ("pooled", "Cats sleep.")]),
    ]


def test_of_a_scored_pair_both_texts_are_shown_and_measured(found):
    findings = found(SCORED, SCORED | {"score": 1})
    assert marked(findings) == [
        ("first text", [("header", "<s><|user|>\nSame?\n<|embed|>\n"), ("pooled", "Cats sleep.")]),
        ("second text", [("header", "<s><|embed|>\n"), ("pooled", "Cats rest.")]),
    ]
    assert [(each.what, each.count) for each in findings.lengths] == [("query", 2), ("passage", 2)]


def test_scores_that_are_none_and_rows_of_another_sort_are_problems(found, tmp_path):
    findings = found(SCORED, SCORED | {"score": "4"}, PAIR)
    assert findings.problems == (
        f"{tmp_path}/rows.jsonl:2: score is '4' (str); expected a number",
        f"{tmp_path}/rows.jsonl:3: the row has no score, the first one of its source has one; put "
        "scored pairs into a source of their own",
    )
    assert findings.refused == 2


def test_of_a_conversation_exactly_the_answers_and_their_ends_are_trained(found):
    assert marked(found(CHAT)) == [
        (
            "conversation",
            [
                ("other", "<s><|user|>\nWho reads?\n<|assistant|>\n"),
                ("trained", "A model.</s>"),
                ("other", "\n<|user|>\nAnd?\n<|assistant|>\n"),
                ("trained", "Cats.</s>"),
            ],
        )
    ]


def test_of_a_rag_row_the_answer_is_trained_and_the_best_document_stands_last(found):
    ((name, (before, answer)),) = marked(found(RAG))
    assert (name, answer) == ("sample", ("trained", "It.</s>"))
    mark, text = before
    assert mark == "other"
    assert text.index("Cats sleep.") < text.index("A model reads.") < text.index("Who reads?")


def test_a_row_is_shown_as_it_is_cut(found, tokens):
    ((_, (_, (_, text))), *_) = marked(found(PAIR, data=DataConfig(query_max_len=30)))
    assert "Where is the ball?".startswith(text)
    assert len(text) < len("Where is the ball?")


def test_as_many_rows_are_shown_as_asked_for_from_the_first_good_one(found):
    rows = [PAIR | {"query": f"Number {number}?"} for number in range(4)]
    places = [place for place, _ in found("{broken", *rows, limits=ResultLimits(samples=2)).samples]
    assert [place[-1] for place in places] == ["2", "3"]
    assert found(*rows, limits=ResultLimits(samples=0)).samples == ()


def test_images_are_decoded_and_shown_by_their_size(found, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    pairs = [{"query": "q", "pos": [{"image": f"{name}.png"}]} for name in ("a", "broken")]
    findings = found(*pairs)
    assert ("pooled", "[image of 40 x 30 pixels]") in marked(findings)[1][1]
    assert findings.problem_count == 1
    assert "rows.jsonl:2: the image of pos[0] is broken" in findings.problems[0]
    chat = {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>Q"},
            {"from": "gpt", "value": "An answer."},
        ],
    }
    ((name, pieces),) = marked(found(chat))
    assert name == "conversation"
    assert ("other", "<s><|user|>\n[image of 40 x 30 pixels]Q\n<|assistant|>\n") in pieces
