"""Embedding of a part on a device that runs out of memory, and of rows that end their worker."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gritlm import GritLM
from gritlm.scale.bulk.attempts import SLOWLY, Attempts
from gritlm.scale.bulk.vector_worker import PartEmbedding
from tests.scale import collection


@pytest.fixture(scope="module")
def model(tiny_model):
    return GritLM(tiny_model(), dtype="float32", device="cpu", mode="embedding")


@pytest.fixture
def prompts(model):
    texts = [collection.passage(number) for number in range(12)]
    return model.encoder.tokens.for_embedding(texts, max_length=200)[0]


@pytest.fixture
def expected(model):
    return model.encode([collection.passage(number) for number in range(12)])


def limited(model, monkeypatch, *, tokens):
    """Let batches of more tokens run out of memory, and return the sizes of those that do not."""
    sizes = []
    plain = model.encoder.vectors

    def vectors(batch, **options):
        total = sum(len(prompt.ids) for prompt in batch)
        if total > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return plain(batch, **options)

    monkeypatch.setattr(model.encoder, "vectors", vectors)
    return sizes


def test_batches_shrink_until_they_fit(model, prompts, expected, monkeypatch):
    longest = max(len(prompt.ids) for prompt in prompts)
    sizes = limited(model, monkeypatch, tokens=2 * longest)
    reasons = {}
    found_ND = PartEmbedding(model, budget=10**6).embed(prompts, reasons)
    assert np.abs(found_ND - expected).max() < 1e-5
    assert not reasons
    assert max(sizes) <= 3
    assert sum(sizes) == len(prompts)


def test_a_row_that_does_not_fit_alone_is_left_out_with_its_reason(
    model, prompts, expected, monkeypatch
):
    longest = max(range(12), key=lambda row: len(prompts[row].ids))
    size = len(prompts[longest].ids)
    rest = [row for row in range(12) if len(prompts[row].ids) < size]
    limited(model, monkeypatch, tokens=size - 1)
    reasons = {}
    found_ND = PartEmbedding(model, budget=10**6).embed(prompts, reasons)
    assert set(reasons) == set(range(12)) - set(rest)
    assert f"which has {size} tokens" in reasons[longest]
    assert np.abs(found_ND[rest] - expected[rest]).max() < 1e-5


def test_another_error_is_raised(model, prompts, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("a wrong shape")

    monkeypatch.setattr(model.encoder, "vectors", fail)
    with pytest.raises(RuntimeError, match="a wrong shape"):
        PartEmbedding(model, budget=512).embed(prompts, {})


def test_the_row_at_which_workers_end_is_found_and_left_out(model, prompts, monkeypatch):
    """What a worker whose process ends leaves behind is only the counts of the attempts."""
    bad = 7
    attempts = Attempts()
    plain = model.encoder.vectors

    def vectors(batch, **options):
        if any(prompt is prompts[bad] for prompt in batch):
            raise SystemExit
        return plain(batch, **options)

    monkeypatch.setattr(model.encoder, "vectors", vectors)
    for attempt in range(10):
        ended, rows, embedded = attempts.begin(5)
        assert ended == attempt
        assert not embedded
        embedding = PartEmbedding(model, budget=512 >> ended)
        if ended >= SLOWLY:
            embedding.slow_down(lambda row: attempts.announce(5, row))
        reasons = dict.fromkeys(rows, "ended")
        try:
            embedding.embed(prompts, reasons)
        except SystemExit:
            continue
        break
    assert attempt == SLOWLY + 1
    assert reasons == {bad: "ended"}
    attempts.end(5)
    assert attempts.begin(5) == (0, [bad], True)


def test_a_vector_that_is_not_finite_is_left_out(model, prompts, monkeypatch):
    plain = model.encoder.vectors

    def vectors(batch, **options):
        found = plain(batch, **options).clone()
        found[0] = float("nan")
        return found

    monkeypatch.setattr(model.encoder, "vectors", vectors)
    reasons = {}
    PartEmbedding(model, budget=10**6).embed(prompts, reasons)
    assert len(reasons) == 1
    assert "not finite" in next(iter(reasons.values()))
