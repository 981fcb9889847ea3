"""Rows of training: pairs to embed, answers over passages, and conversations to keep.

``gritlm data check`` reads all three files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.rows.general_requests import REQUESTS
from gritlm.adapt.rows.sentences import without
from gritlm.adapt.run_folder import Row, RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.errors import InputError

PAIRS = "pairs.jsonl"
ANSWERS = "answers.jsonl"
CHATS = "chats.jsonl"
FEWEST = 8  # questions to train on
_ANSWER_TOKENS = 64  # of the model's own answers to general requests


def require_enough(questions: int) -> None:
    """Refuse to train on almost no questions.

    Raises:
        InputError: with the number of questions and the possible remedies.
    """
    if questions < FEWEST:
        raise InputError(
            f"{questions} questions are left to train on; expected at least {FEWEST}: add "
            "documents, let a stronger model write the questions (questions_from), give questions "
            "people asked (questions), or raise top_k"
        )


def pair(row: Row, passages: Mapping[str, CollectedPassage]) -> Row:
    """Return the embedding row of a question.

    The passage of a claim is its positive without the claim itself (an inverse cloze task), so that
    more than equal words lead from one to the other.
    """
    own = passages[row["passage"]]
    positive = own.embedded
    if row["kind"] == "claim" and (rest := without(own.text, row["sentence"])):
        positive = f"{own.title} {rest}".strip()
    negatives = [passages[name].embedded for name in row["negatives"]]
    return {"query": row["question"], "pos": [positive], "neg": negatives}


def answer(row: Row, passages: Mapping[str, CollectedPassage]) -> Row | None:
    """Return the RAG row of a question, its passage first; None for one without an answer."""
    if not row["answer"]:
        return None
    names = [row["passage"], *row["negatives"]]
    documents = [passages[name].embedded for name in names]
    return {"question": row["question"], "documents": documents, "answer": row["answer"]}


def answers_over(rows: Sequence[Row], passages: Sequence[CollectedPassage]) -> list[Row]:
    """Return questions as rows of a QA task, the passage with the answer first."""
    by_id = {passage.id: passage for passage in passages}
    made = [found for row in rows if (found := answer(row, by_id))]
    return [
        {"question": row["question"], "answers": [row["answer"]], "documents": row["documents"]}
        for row in made
    ]


def write_rows(
    folder: RunFolder, rows: Sequence[Row], passages: Sequence[CollectedPassage]
) -> dict[str, int]:
    """Write the embedding and the RAG rows, and return their numbers.

    Args:
        folder: folder of the run.
        rows: questions of the training part, with ``negatives``.
        passages: passages of the training part.
    """
    by_id = {passage.id: passage for passage in passages}
    pairs = [pair(row, by_id) for row in rows]
    answers = [found for row in rows if (found := answer(row, by_id))]
    folder.write(PAIRS, pairs)
    folder.write(ANSWERS, answers)
    return {"pairs": len(pairs), "answers": len(answers)}


def write_chats(folder: RunFolder, model: StartingModel) -> dict[str, int]:
    """Write the model's own answers to general requests, which hold it to what it can do.

    Args:
        folder: folder of the run.
        model: the model that is adapted.
    """
    prompts = [model.model.chat_ids(request) for request in REQUESTS]
    answers = model.texts(prompts, until=[], max_new_tokens=_ANSWER_TOKENS)
    rows = [
        {
            "messages": [
                {"role": "user", "content": request},
                {"role": "assistant", "content": text.strip()},
            ]
        }
        for request, text in zip(REQUESTS, answers, strict=True)
        if text.strip()
    ]
    folder.write(CHATS, rows)
    return {"conversations": len(rows)}
