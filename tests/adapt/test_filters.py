"""The round-trip filter and the hard negatives, with a model that compares words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.rows import hard_negatives, round_trip
from gritlm.adapt.rows.hard_negatives import HardNegatives
from gritlm.adapt.rows.round_trip import RoundTrip
from gritlm.adapt.rows.training_rows import answer, pair
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.starting_model import StartingModel
from tests.adapt import made

PASSAGES = [
    CollectedPassage(animal, animal, "", made.text(animal, n), 0)
    for n, animal in enumerate(made.ANIMALS[:24], 2)
]


class WordModel(StartingModel):
    """Model whose cosines and likelihoods are shares of common words."""

    def __init__(self, passages: Sequence[CollectedPassage]) -> None:
        super().__init__("words")
        words = sorted({word for passage in passages for word in _words(passage.text)})
        self._number = {word: number for number, word in enumerate(words)}

    def passage_vectors(self, passages, *, progress=None) -> Tensor:
        return self.query_vectors([passage.text for passage in passages])

    def query_vectors(self, queries) -> Tensor:
        found = torch.zeros(len(queries), len(self._number))
        for row, query in enumerate(queries):
            for word in _words(query) & self._number.keys():
                found[row, self._number[word]] = 1
        return torch.nn.functional.normalize(found, dim=1)

    def likelihoods(self, question: str, texts: Sequence[str]) -> list[float]:
        asked = _words(question)
        return [len(asked & _words(text)) / len(asked) for text in texts]


def _words(text: str) -> set[str]:
    return set(text.casefold().replace(".", " ").replace("?", " ").split())


def config(**changes) -> AdaptConfig:
    return AdaptConfig(documents=("x",), to="y", **{"top_k": 2, **changes})


def row(question: str, passage: str, kind: str = "factual", **more) -> dict:
    return {"question": question, "passage": passage, "kind": kind, "answer": "apples", **more}


def test_a_planted_wrong_question_is_dropped(tmp_path: Path):
    asked = [row(f"How long does the {p.id} sleep in {p.id}ville?", p.id) for p in PASSAGES]
    asked.append(row("How long does the fox sleep in foxville?", "owl"))  # of another passage
    trip = RoundTrip(config(), WordModel(PASSAGES), PASSAGES)
    found = trip.filter(asked, RunFolder(tmp_path), progress=False)
    assert [each["question"] for each in found.rows] == [each["question"] for each in asked[:-1]]
    assert {each["rank"] for each in found.rows} == {1}
    assert found.counts == {"kept": 24, round_trip.NOT_NEAR: 1}


def test_a_question_likelier_after_another_passage_is_dropped(tmp_path: Path):
    twin = CollectedPassage("twin", "twin", "", f"{made.text('fox', 4)} It also dreams.", 0)
    passages = [*PASSAGES, twin]
    trip = RoundTrip(config(top_k=5), WordModel(passages), passages)
    asked = [row("How long does the fox sleep in foxville and also dreams?", "fox")]
    found = trip.filter(asked, RunFolder(tmp_path), progress=False)
    assert (found.rows, found.counts) == ([], {round_trip.LIKELIER: 1})


def test_a_passage_that_answers_too_is_no_negative(tmp_path: Path):
    twin = CollectedPassage("twin", "twin", "", f"News. {made.text('fox', 4)}", 0)
    passages = [*PASSAGES, twin]
    asked = [row("How long does the fox sleep in foxville?", "fox")]
    mining = HardNegatives(config(), WordModel(passages), passages)
    found = mining.mine(asked, RunFolder(tmp_path), progress=False)
    (negatives,) = (each["negatives"] for each in found.rows)
    assert len(negatives) == 1
    assert not {"fox", "twin"} & set(negatives)
    assert found.counts[hard_negatives.FALSE_NEGATIVE] == 1


def test_claims_and_key_terms_get_no_negatives_and_are_not_read(tmp_path: Path):
    mining = HardNegatives(config(), WordModel(PASSAGES), PASSAGES)
    asked = [row("fox foxville", "fox", "keyword"), row("owl owlville", "owl", "claim")]
    found = mining.mine(asked, RunFolder(tmp_path), progress=False)
    assert [each["negatives"] for each in found.rows] == [[], []]
    assert found.counts == {"kept": 2}


def test_a_margin_that_no_passage_keeps_leaves_a_question_without_negatives(tmp_path: Path):
    mining = HardNegatives(config(margin=1.5), WordModel(PASSAGES), PASSAGES)
    asked = [row("How long does the fox sleep in foxville?", "fox")]
    found = mining.mine(asked, RunFolder(tmp_path), progress=False)
    assert found.rows[0]["negatives"] == []
    assert found.counts[hard_negatives.WITHOUT] == 1


def test_rows_hold_the_passage_first_and_claims_without_their_sentence():
    by_id = {passage.id: passage for passage in PASSAGES}
    asked = row("How long?", "fox", negatives=["owl", "bee"])
    assert pair(asked, by_id) == {
        "query": "How long?",
        "pos": [by_id["fox"].text],
        "neg": [by_id["owl"].text, by_id["bee"].text],
    }
    found = answer(asked, by_id)
    assert found is not None
    assert found["documents"][0] == by_id["fox"].text
    sentence = by_id["fox"].text.partition(". ")[0] + "."
    claim = row(sentence, "fox", "claim", negatives=[], sentence=sentence)
    (positive,) = pair(claim, by_id)["pos"]
    assert sentence not in positive
    assert positive in by_id["fox"].text
    assert answer({**claim, "answer": None}, by_id) is None


def test_the_likelihood_is_that_of_one_pass_over_passage_and_question(model_folder):
    model = StartingModel(str(model_folder), "cpu")
    texts = [passage.embedded for passage in PASSAGES[:3]]
    question = "How long do cats sleep?"
    found = model.likelihoods(question, texts)
    from gritlm.rag.plan import question_after

    ids, (begin, end) = question_after(model.assembler.tokens, question)
    for text, likelihood in zip(texts, found, strict=True):
        before = list(model.assembler.passage_ids([text])[0])
        logits_LV = model.model.lm.logits(torch.tensor([before + ids]))[0].float()
        logprob_LV = logits_LV.log_softmax(dim=-1)
        own = [logprob_LV[len(before) + at - 1, ids[at]].item() for at in range(begin, end)]
        assert likelihood == pytest.approx(sum(own) / len(own), abs=0.05)
