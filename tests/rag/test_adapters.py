"""Stores of models with adapters that are not merged, and of adapters that embed only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.rag import RagEngine

OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
DOCUMENTS = [
    {"id": "water", "text": "Water boils at 100 degrees and freezes at 0 degrees."},
    {"id": "cats", "text": "Cats sleep most of the day. Dogs like long walks in the park."},
]
QUESTION = "When does water boil?"


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama", max_position_embeddings=512)


@pytest.fixture(scope="module")
def two(
    make_adapter: Callable[..., Path], base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    law = make_adapter(base, tmp_path_factory.mktemp("law"))
    medicine = make_adapter(base, tmp_path_factory.mktemp("medicine"), r=2, lora_alpha=6)
    return {"law": str(law), "medicine": str(medicine)}


@pytest.fixture(scope="module")
def shared(base: Path, two: dict[str, str]) -> GritLM:
    return GritLM(base, adapters=two, **OPTIONS)


def answered(engine: RagEngine, mode: str = "doc") -> tuple[str, dict[str, int]]:
    """The answer to the question, and the tokens that were read for it by kind."""
    answer = engine.answer(QUESTION, mode=mode, top_k=1, max_new_tokens=8)
    assert answer.trace.mode == mode
    return answer.text, {"reused": answer.trace.tokens_reused}


def test_a_store_serves_its_adapter_merged_or_not(shared, base, two, tmp_path):
    merged = GritLM(base, adapter=two["law"], **OPTIONS)
    with RagEngine.open(tmp_path / "store", merged) as engine:
        engine.add(DOCUMENTS)
        expected = answered(engine)
    with RagEngine.open(tmp_path / "store", shared.with_adapter("law")) as engine:
        assert answered(engine) == expected
        assert engine.add(DOCUMENTS).unchanged == 2


def test_a_store_of_one_adapter_is_refused_by_another(shared, tmp_path):
    with RagEngine.open(tmp_path / "store", shared.with_adapter("law")) as engine:
        engine.add(DOCUMENTS)
    for model in (shared, shared.with_adapter("medicine")):
        with pytest.raises(InputError, match=r"this store was made by .*law") as refused:
            RagEngine.open(tmp_path / "store", model)
        assert "\n" not in str(refused.value)


def test_adapters_over_one_base_answer_from_their_own_stores_side_by_side(
    shared, base, two, tmp_path
):
    engines = {}
    for name in two:
        engines[name] = RagEngine.open(tmp_path / name, shared.with_adapter(name))
        engines[name].add(DOCUMENTS)
    for name, engine in engines.items():
        with (
            engine,
            RagEngine.open(
                tmp_path / f"{name} alone", GritLM(base, adapter=two[name], **OPTIONS)
            ) as alone,
        ):
            alone.add(DOCUMENTS)
            assert answered(engine) == answered(alone)


def test_with_an_adapter_for_embeddings_search_is_the_adapters_and_answers_are_the_bases(
    base, two, tmp_path
):
    model = GritLM(base, embed_adapter=two["law"], **OPTIONS)
    plain = GritLM(base, **OPTIONS)
    law = GritLM(base, adapter=two["law"], **OPTIONS)
    with (
        RagEngine.open(tmp_path / "store", model) as engine,
        RagEngine.open(tmp_path / "plain", plain) as by_base,
        RagEngine.open(tmp_path / "law", law) as by_law,
    ):
        for each in (engine, by_base, by_law):
            each.add(DOCUMENTS)
        hits = engine.retrieve(QUESTION, top_k=2)
        expected = by_law.retrieve(QUESTION, top_k=2)
        assert [hit.passage.id for hit in hits] == [hit.passage.id for hit in expected]
        assert np.allclose([h.score for h in hits], [h.score for h in expected], atol=1e-5)
        for mode in ("doc", "none"):
            found = engine.answer(QUESTION, mode=mode, hits=hits[:1], max_new_tokens=8)
            again = by_base.answer(QUESTION, mode=mode, hits=hits[:1], max_new_tokens=8)
            assert found.text == again.text
        assert engine.answer(QUESTION, mode="doc", hits=hits[:1]).trace.tokens_reused > 0


def test_bidirectional_blocks_are_refused_where_another_adapter_embeds(base, two, tmp_path):
    model = GritLM(base, embed_adapter=two["law"], **OPTIONS)
    expected = r"belongs to .*law.* and not to the model that generates; use blocks='causal'"
    with pytest.raises(InputError, match=expected):
        RagEngine.open(tmp_path / "store", model, blocks="bidirectional")
    assert not (tmp_path / "store").exists()
    with RagEngine.open(tmp_path / "store", model) as engine:
        with pytest.raises(InputError, match=expected):
            engine.add(DOCUMENTS, kinds=["bidirectional"])
        engine.add(DOCUMENTS)
        with pytest.raises(InputError, match=expected):
            engine.answer(QUESTION, blocks="bidirectional")


def test_a_store_knows_which_adapter_embeds(base, two, tmp_path):
    model = GritLM(base, embed_adapter=two["law"], **OPTIONS)
    with RagEngine.open(tmp_path / "store", model) as engine:
        engine.add(DOCUMENTS)
    for other in (
        GritLM(base, **OPTIONS),
        GritLM(base, embed_adapter=two["medicine"], **OPTIONS),
        GritLM(base, adapter=two["law"], **OPTIONS),
    ):
        with pytest.raises(InputError, match=r"embedding with .*law"):
            RagEngine.open(tmp_path / "store", other)
