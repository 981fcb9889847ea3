"""Texts that come again are not read again."""

from __future__ import annotations

from typing import Any

import mteb
import numpy as np
import pytest
from mteb.types import PromptType

from gritlm.evaluation.embedding.encoder import mteb_encoder
from gritlm.evaluation.embedding.once import EncodeOnce
from tests import tiny

ONE, TWO, THREE = tiny.SENTENCES[:3]


class Counted:
    """An encoder that notes what it reads."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.read: list[str] = []

    def encode(self, inputs: Any, **options: Any) -> Any:
        batches = list(inputs)
        self.read += [text for batch in batches for text in batch["text"]]
        return self.inner.encode(batches, **options)


def encode(once: EncodeOnce, texts: list[str], side: PromptType | None) -> Any:
    return once.encode(
        [{"text": texts}],
        task_metadata=mteb.get_task("NQ").metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=side,
        batch_size=2,
    )


@pytest.fixture
def counted(model) -> Counted:
    return Counted(mteb_encoder(model))


def test_the_columns_of_pairs_share_their_texts(counted):
    once = EncodeOnce(counted)
    first, second = encode(once, [ONE, TWO, ONE], None), encode(once, [TWO, THREE], None)
    assert sorted(counted.read) == sorted([ONE, TWO, THREE])
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], second[0])


def test_vectors_are_those_of_the_inner_encoder_in_the_order_of_the_texts(counted, model):
    found = encode(EncodeOnce(counted), [TWO, ONE, TWO, THREE], PromptType.document)
    np.testing.assert_allclose(
        found, model.encode([TWO, ONE, TWO, THREE], instruction="<|embed|>\n"), atol=1e-6
    )


def test_a_query_that_is_a_document_too_is_read_on_both_sides(counted):
    once = EncodeOnce(counted)
    query, document = (encode(once, [ONE], side) for side in PromptType)
    assert counted.read == [ONE, ONE]
    assert not np.allclose(query, document)
