"""Short and quantised vectors still rank after an adaptation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gritlm import GritLM
from gritlm.adapt import adapt, measuring
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.verdict import Verdict
from gritlm.evaluation.outcome import Report
from tests.adapt import made

KEPT = 0.8  # share of the questions of full vectors that shorter ones must answer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    """A run long enough for the questions to lead to their passages."""
    folder = tmp_path_factory.mktemp("vectors")
    made.documents(folder)
    config = made.config(
        folder,
        model_folder,
        kinds=("keyword",),
        steps=60,
        batch_size=16,
        learning_rate=3e-3,
        frozen=0.0,
        without=("filter", "kl"),
    )
    measured = (Report((), "adapt", None), Verdict("undecided", "undecided: not measured"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "measure", lambda *_, **__: measured)
        return adapt(config, progress=False)


def share_found(model: GritLM, folder: RunFolder, dims: int | None, precision: str) -> float:
    """Return the share of the trained questions whose own passage is the nearest one."""
    passages = [row for row in folder.read("passages.jsonl") if row["split"] == "train"]
    rows = folder.read("filtered.jsonl")
    options = {"truncate_dim": dims, "precision": precision}
    texts = [f"{row['title']} {row['text']}".strip() for row in passages]
    passage_PD = _numbers(model.encode(texts, **options), precision)
    query_QD = _numbers(model.encode_query([row["question"] for row in rows], **options), precision)
    best = (query_QD @ passage_PD.T).argmax(axis=1)
    found = [passages[at]["id"] == row["passage"] for at, row in zip(best, rows, strict=True)]
    return sum(found) / len(rows)


def _numbers(vectors: Any, precision: str) -> Any:
    """Return vectors as floats; a packed bit becomes -1 or 1."""
    if precision != "ubinary":
        return vectors.astype("float32")
    return 2 * np.unpackbits(vectors, axis=1).astype("float32") - 1


def test_short_and_quantised_vectors_still_rank(trained, model_folder):
    options = {"dtype": "float32", "device": "cpu"}
    folder = RunFolder(trained.folder)
    adapted = GritLM(trained.folder, **options)
    size = adapted.embedding_dimension
    full = share_found(adapted, folder, None, "float32")
    before = share_found(GritLM(model_folder, **options), folder, None, "float32")
    assert full > before + 0.3
    for dims, precision in (
        (size // 2, "float32"),
        (size // 4, "float32"),
        (None, "int8"),
        (None, "ubinary"),
    ):
        assert share_found(adapted, folder, dims, precision) >= KEPT * full, (dims, precision)
