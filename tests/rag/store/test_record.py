"""Headers to bytes and back."""

from __future__ import annotations

import pytest
import torch

from gritlm.rag.kvstore import record
from gritlm.rag.kvstore.errors import DamagedRecordError


def header(tokens: int = 6) -> record.RecordHeader:
    raw_LB = torch.arange(3 * 4 * tokens * 2 * 4, dtype=torch.uint8).view(3, -1)
    return record.describe(
        b"k" * 32,
        raw_LB,
        shape=(3, 2, tokens, 2),
        dtype="float32",
        storage="float32",
        causal=True,
        token_ids=range(tokens),
    )


def test_a_header_says_after_reading_what_was_written():
    made = header().at(7)
    packed = record.pack(made)
    assert len(packed) == record.ALIGN
    assert record.length(packed) == made.nbytes
    read = record.unpack(packed[: made.nbytes])
    assert read.token_ids.tolist() == [0, 1, 2, 3, 4, 5]
    for name in ("key", "shape", "dtype", "storage", "causal", "commit", "layers", "digest"):
        assert getattr(read, name) == getattr(made, name)


def test_a_long_text_has_a_header_of_several_pages():
    made = header(tokens=3000)
    packed = record.pack(made)
    assert len(packed) == 3 * record.ALIGN
    assert record.unpack(packed[: made.nbytes]).token_ids.tolist() == list(range(3000))


def test_every_single_bit_of_a_header_is_proven():
    made = header()
    packed = record.pack(made)[: made.nbytes]
    for at in range(len(packed)):
        for bit in range(8):
            broken = bytearray(packed)
            broken[at] ^= 1 << bit
            with pytest.raises(DamagedRecordError):
                record.unpack(bytes(broken))


@pytest.mark.parametrize("length", [0, 10, 120, 150])
def test_a_header_that_is_cut_off_is_none(length):
    with pytest.raises(DamagedRecordError):
        record.unpack(record.pack(header())[:length])
