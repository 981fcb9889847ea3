"""A real encoder through our tasks scores what it scores without us."""

from __future__ import annotations

import csv
from pathlib import Path

import mteb
import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)

from gritlm.evaluation.embedding import local, mteb_run
from tests.evaluation.embedding import folders

DATA = Path(__file__).parents[4] / "shared" / "data" / "stsbenchmark" / "data" / "stsb-en-dev.csv"


@pytest.fixture(scope="module")
def sts(tmp_path_factory):
    """The first rows of STS-B dev, where they are."""
    if not DATA.is_file():
        pytest.skip(f"{DATA.name} is not here; put the STS-B sets beside the checkout")
    folder = tmp_path_factory.mktemp("sts")
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.reader(file), range(32), strict=False)]
    names = ("sentence1", "sentence2", "score")
    folders.jsonl(
        folder / "test.jsonl",
        (dict(zip(names, (one, two, float(gold)), strict=True)) for one, two, gold in rows),
    )
    return folders.task(folder, "STS"), rows


def test_sts_is_what_sentence_transformers_computes(minilm, sts):
    task, rows = sts
    found = mteb_run.measure(minilm, task)
    one, two, said = (list(column) for column in zip(*rows, strict=True))
    gold = [float(value) for value in said]
    own = (minilm.encode(one) * minilm.encode(two)).sum(axis=1)
    np.testing.assert_allclose([cosine for cosine, _ in found.pairs], own, atol=1e-5)
    assert found.score == pytest.approx(100 * spearmanr(own, gold)[0], abs=0.01)
    evaluator = EmbeddingSimilarityEvaluator(one, two, gold, main_similarity="cosine")
    assert found.score == pytest.approx(100 * evaluator(minilm)["spearman_cosine"], abs=0.01)


def test_retrieval_is_what_sentence_transformers_computes(minilm, tmp_path):
    found = mteb_run.measure(minilm, folders.retrieval(tmp_path))
    evaluator = InformationRetrievalEvaluator(
        folders.QUERIES,
        {key: f"{key} {text}" for key, text in folders.PASSAGES.items()},
        {query: set(right) for query, right in folders.RELEVANT.items()},
        ndcg_at_k=[10],
    )
    assert found.score == pytest.approx(100 * evaluator(minilm)["cosine_ndcg@10"], abs=0.01)


@pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning")
@pytest.mark.parametrize("kind", folders.MAKERS)
def test_a_task_is_what_mteb_alone_computes(kind, minilm, tmp_path):
    task = folders.MAKERS[kind](tmp_path)
    alone = mteb.evaluate(minilm, local.make(task), cache=None, show_progress_bar=False)
    assert mteb_run.measure(minilm, task).score == pytest.approx(
        100 * alone.task_results[0].get_score(), abs=0.01
    )
