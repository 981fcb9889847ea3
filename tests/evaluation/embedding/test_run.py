"""Tasks measured on a tiny model: what comes out, and what is refused."""

from __future__ import annotations

import logging
import socket
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from gritlm.errors import InputError
from gritlm.evaluation import bootstrap
from gritlm.evaluation.embedding import items, mteb_results, mteb_run
from gritlm.prompts import gritlm_instruction
from tests.evaluation.embedding import folders

ITEMS = {"Classification", "Retrieval", "Reranking"}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody wants to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("kind", folders.MAKERS)
def test_every_type_is_measured_offline_and_in_silence(
    kind, model, tmp_path, no_network, capfd, caplog
):
    caplog.set_level(logging.WARNING)
    found = mteb_run.measure(model, folders.MAKERS[kind](tmp_path))
    assert (found.kind, found.half, found.task) == (kind, "embedding", f"tiny-{kind}")
    assert 0 <= found.score <= 100
    assert found.harness.startswith("mteb ")
    assert (found.items is not None) == (kind in ITEMS)
    assert (found.pairs is not None) == (kind in {"STS", "PairClassification"})
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", sorted(ITEMS))
def test_the_score_is_the_mean_of_its_items(kind, model, tmp_path):
    found = mteb_run.measure(model, folders.MAKERS[kind](tmp_path))
    assert len(found.items) == found.count
    assert 100 * np.mean(found.items) == pytest.approx(found.score, abs=1e-3)  # mteb rounds


def test_pairs_are_own_cosines_and_the_score_their_correlation(model, tmp_path):
    found = mteb_run.measure(model, folders.sts(tmp_path, instruction="Find the same"))
    header = gritlm_instruction("Find the same")
    one, two = (
        model.encode([row[side] for row in folders.PAIRS], instruction=header) for side in (0, 1)
    )
    own = model.similarity_pairwise(one, two).numpy()
    gold = [row[2] for row in folders.PAIRS]
    np.testing.assert_allclose(found.pairs, np.stack([own, gold], axis=1), atol=1e-5)
    assert found.score == pytest.approx(100 * spearmanr(own, gold)[0])


def test_ndcg_is_that_of_own_cosines(model, tmp_path):
    found = mteb_run.measure(
        model, folders.retrieval(tmp_path, instruction="Ask", passage_instruction="Answer")
    )
    queries = model.encode(list(folders.QUERIES.values()), instruction=gritlm_instruction("Ask"))
    texts = [f"{title} {text}" for title, text in folders.PASSAGES.items()]
    passages = model.encode(texts, instruction=gritlm_instruction("Answer"))
    order = (-model.similarity(queries, passages)).argsort(dim=1).tolist()
    names = list(folders.PASSAGES)
    for row, right, item in zip(order, folders.RELEVANT.values(), found.items, strict=True):
        gain = sum(1 / np.log2(i + 2) for i, place in enumerate(row) if names[place] in right)
        best = sum(1 / np.log2(i + 2) for i in range(len(right)))
        assert item == pytest.approx(gain / best)


def test_the_same_again_gives_the_same(model, tmp_path):
    task = folders.classification(tmp_path)
    first, second = mteb_run.measure(model, task), mteb_run.measure(model, task, batch_size=2)
    assert (first.score, first.items) == (second.score, second.items)


def test_limit_bounds_the_rows(model, tmp_path):
    assert mteb_run.measure(model, folders.retrieval(tmp_path / "r"), limit=2).count == 2
    assert len(mteb_run.measure(model, folders.sts(tmp_path / "s"), limit=3).pairs) == 3


def test_mteb_leaves_logging_and_bars_as_they_were(model, tmp_path):
    from datasets import is_progress_bar_enabled

    noisy = logging.getLogger("mteb")
    before = noisy.level, is_progress_bar_enabled()
    mteb_run.measure(model, folders.sts(tmp_path))
    assert (noisy.level, is_progress_bar_enabled()) == before


def test_progress_shows_bars(model, tmp_path, capfd):
    mteb_run.measure(model, folders.retrieval(tmp_path), progress=True)
    assert "Searching corpus" in capfd.readouterr().err


def test_pairs_of_a_classification_are_cosines_and_labels_and_the_score_their_precision(
    model, tmp_path
):
    found = mteb_run.measure(model, folders.pair_classification(tmp_path))
    cosines, labels = zip(*found.pairs, strict=True)
    assert labels == tuple(float(row[2] > 3) for row in folders.PAIRS)
    assert found.score == pytest.approx(100 * average_precision_score(labels, cosines))


def test_the_precision_of_the_best_measure_comes_with_that_measure():
    said = {"cosine_scores": [0.1, 0.2], "manhattan_distances": [0.5, 3.0]}
    table = {"cosine_ap": 0.5, "manhattan_ap": 1.0, "max_ap": 1.0, "main_score": 1.0}
    assert items.of_ranking(said, [1, 0], table) == ((-0.5, 1.0), (-3.0, 0.0))
    assert items.of_ranking(said, [1, 0], {**table, "main_score": 0.75}) is None


def test_vectors_that_are_all_the_same_agree_with_no_order(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "encode", lambda texts, **_: np.ones((len(texts), 4), "float32"))
    found = mteb_run.measure(model, folders.sts(tmp_path))
    assert found.score == 0
    assert found.details == {}
    assert bootstrap.score(bootstrap.resampled(found)) == bootstrap.Estimate(0, 0, 0)


def test_vectors_that_are_no_numbers_have_no_score(model, tmp_path, monkeypatch):
    nan = float("nan")
    monkeypatch.setattr(model, "encode", lambda texts, **_: np.full((len(texts), 4), nan))
    with pytest.raises(ValueError, match="NaN"):
        mteb_run.measure(model, folders.sts(tmp_path))


@pytest.mark.parametrize(
    ("pairs", "none"),
    [
        (((0.5, 1.0), (0.5, 2.0)), True),
        (((0.5, 1.0), (0.25, 2.0)), False),
        (((0.5, 1.0), (0.5, 1.0)), False),
        (((float("nan"), 1.0), (float("nan"), 2.0)), False),
    ],
)
def test_there_is_no_order_where_the_model_alone_finds_all_alike(pairs, none):
    assert mteb_results._is_no_order(pairs) == none


def test_something_else_than_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="model is str; expected a GritLM or a"):
        mteb_run.measure("MiniLM", folders.sts(tmp_path))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"batch_size": True}])
def test_numbers_are_checked(model, tmp_path, wrong):
    with pytest.raises(InputError, match="expected a whole number >= 1"):
        mteb_run.measure(model, folders.sts(tmp_path), **wrong)
