"""Ours against what the reference code computed (tests/golden/README.md), in float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gritlm.lm.generator import prefix_cache
from gritlm.lm.unified import UnifiedLM
from gritlm.lm.vectors import POOLING, normalise

GOLDEN = Path(__file__).parents[1] / "golden"
BOUND = 1e-5


@pytest.fixture(params=["mistral-11", "mixtral-12"], scope="module")
def case(request: pytest.FixtureRequest) -> tuple[UnifiedLM, dict[str, Tensor]]:
    folder = GOLDEN / request.param
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return UnifiedLM(model), load_file(folder / "golden.safetensors")


def close(ours: Tensor, golden: Tensor) -> bool:
    return bool((ours - golden).abs().max() <= BOUND)


@torch.no_grad()
def hidden(lm: UnifiedLM, golden: dict[str, Tensor], *, causal: bool) -> Tensor:
    ids, mask = golden["passage.input_ids"], golden["passage.attention_mask"]
    return lm.hidden(ids, mask, causal=causal)


@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_hidden_states_equal_the_reference(case, kind):
    lm, golden = case
    real = golden["passage.attention_mask"].bool()
    ours = hidden(lm, golden, causal=kind == "causal")
    assert close(ours[real], golden[f"passage.hidden.{kind}"][real])


@pytest.mark.parametrize("name", POOLING)
def test_every_pooling_equals_the_reference(case, name):
    lm, golden = case
    pooled = POOLING[name](hidden(lm, golden, causal=False), pooled_mask(golden))
    assert close(pooled, golden[f"passage.embedding.{name}.raw"])
    assert close(normalise(pooled), golden[f"passage.embedding.{name}.normalized"])


def test_causal_embeddings_equal_the_reference(case):
    lm, golden = case
    pooled = POOLING["weightedmean"](hidden(lm, golden, causal=True), pooled_mask(golden))
    golden_name = "passage.embedding.weightedmean.normalized.causal_attention"
    assert close(normalise(pooled), golden[golden_name])


def test_logits_equal_the_reference(case):
    lm, golden = case
    mask = golden["passage.attention_mask"]
    with torch.no_grad():
        ours = lm.logits(golden["passage.input_ids"], mask)
    assert close(ours[mask.bool()], golden["passage.logits"][mask.bool()])


def test_a_document_read_bidirectionally_is_continued_as_in_the_reference(case):
    lm, golden = case
    doc, tail = golden["rag.doc_ids"], golden["rag.tail_ids"]
    with torch.no_grad():
        _, (block,) = lm.hidden_and_blocks(doc[0], [doc.shape[1]])
        cached = lm.logits(tail, cache=prefix_cache(lm, block, room=tail.shape[1]))
        whole = lm.logits(torch.cat((doc, tail), dim=1))[:, doc.shape[1] :]
    assert close(cached, golden["rag.tail_logits"])
    assert close(whole, golden["rag.uncached_tail_logits"])


def test_a_document_read_causally_is_continued_like_plain_text(case):
    lm, golden = case
    doc, tail = golden["rag.doc_ids"], golden["rag.tail_ids"]
    with torch.no_grad():
        block = lm.causal_block(doc[0])
        cached = lm.logits(tail, cache=prefix_cache(lm, block, room=tail.shape[1]))
    assert close(cached, golden["rag.uncached_tail_logits"])


def test_the_goldens_are_those_of_the_reference():
    about = json.loads((GOLDEN / "mistral-11" / "golden.json").read_text(encoding="utf-8"))
    assert about["reference"].startswith("ContextualAI/gritlm at 9710681")


def pooled_mask(golden: dict[str, Tensor]) -> Tensor:
    mask = golden["passage.attention_mask"].clone()
    for row, size in enumerate(golden["passage.instruction_lens"].tolist()):
        mask[row, :size] = 0
    return mask
