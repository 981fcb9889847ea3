"""RAG samples in one pass against the same question served from key/value blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gritlm import GritLM, gritlm_instruction
from gritlm.lm.attention import block_mask
from gritlm.lm.generator import prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import RAG_FORMS, Segment, for_rag
from gritlm.rag.reuse.recompute import read_again
from gritlm.train.config import BLOCK_KINDS, RAG_MODES, RagConfig
from gritlm.train.data import rag_samples
from gritlm.train.data.examples import RagExample
from gritlm.train.model import hidden_states
from gritlm.train.objectives import losses
from tests import tiny

BOUND = 1e-4
FIND = "Find what answers"
GOLD = "Ann has a red ball."
OTHERS = (
    "Cats sleep most of the day.",
    "Dogs like long walks.",
    "Water boils at 100 degrees.",
    "The quick brown fox jumps.",
)
ROW = RagExample("What colour is the ball?", (GOLD, *OTHERS), "A red one.")
TOKENS = SegmentTokenizer(tiny.tokenizer())
LONG = 10_000
ALL = list(product(RAG_MODES, BLOCK_KINDS))


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma3"])
def served(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> GritLM:
    """Mistral and Gemma 3 have windows shorter than a block, Gemma 3 in some layers only."""
    folder = tiny_model(request.param, max_position_embeddings=512)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny.model("llama", max_position_embeddings=512)


def chosen(count: int) -> list[str]:
    """So many documents, the one that answers in the middle."""
    documents = list(OTHERS[: count - 1])
    documents.insert(count // 2, GOLD)
    return documents


def sample(
    mode: str = "doc",
    kind: str = "bidirectional",
    *,
    documents: list[str] | None = None,
    max_length: int = LONG,
    tokens: SegmentTokenizer = TOKENS,
    row: RagExample = ROW,
    embed_eos: str = "",
    read_again: int = 0,
) -> rag_samples.Blocked | None:
    form = rag_samples.SampleForm(
        mode, kind, query_instruction=FIND, embed_eos=embed_eos, read_again=read_again
    )
    documents = chosen(3) if documents is None else documents
    return rag_samples.sample(tokens, row, form, documents=documents, max_length=max_length)


def tail(mode: str, documents: list[str]) -> list[int]:
    """What is prefilled at question time, and the answer."""
    segments = for_rag(mode, question=ROW.question, documents=documents)
    return TOKENS.for_chat([*segments, Segment(ROW.answer, end=True)], start=False).ids


@torch.no_grad()
def logits(model: PreTrainedModel, samples: list[rag_samples.Blocked]) -> Tensor:
    hidden = hidden_states.generative_states(model.base_model, rag_samples.rows(samples, pad=0))
    return model.get_output_embeddings()(hidden)


@torch.inference_mode()
def blocks(model: GritLM, mode: str, kind: str, documents: list[str]) -> list[KVBlock]:
    """Every text embedded by itself; the BOS cut off all but the first."""
    query = gritlm_instruction(FIND)
    read = {
        "documents": model.encode_document(documents, get_cache=True)[1],
        "question": model.encode_query([ROW.question], instruction=query, get_cache=True)[1],
    }
    made = [block for part in RAG_FORMS[mode].before for block in read[part]]
    if kind == "causal":
        made = [model.lm.causal_block(block.token_ids) for block in made]
    return [made[0], *(block[1:] for block in made[1:])]


def seen_in(made: rag_samples.Blocked) -> torch.Tensor:
    return block_mask.seen(made)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("mode", "kind"), [each for each in ALL if each[0] != "none"])
def test_one_pass_gives_the_logits_that_are_served(served, mode, kind, count):
    block = KVBlock.join(blocks(served, mode, kind, chosen(count)))
    ids = torch.tensor([tail(mode, chosen(count))])
    with torch.inference_mode():
        cache = prefix_cache(served.lm, block, room=ids.shape[1])
        expected = served.lm.logits(ids, cache=cache)[0]
    made = sample(mode, kind, documents=chosen(count))
    ours = logits(served.model, [made])[0, -ids.shape[1] :]
    assert made.ids[-ids.shape[1] :] == ids[0].tolist()
    assert made.positions[-1] == block.tokens + ids.shape[1] - 1
    assert (ours - expected).abs().max() < BOUND


@pytest.mark.parametrize("again", [1, 3, 99])
@pytest.mark.parametrize(("mode", "kind"), [each for each in ALL if each[0] != "none"])
def test_with_tokens_read_again_one_pass_gives_the_logits_of_a_cache_that_is_patched(
    served, mode, kind, again
):
    made = sample(mode, kind, read_again=again)
    parts = blocks(served, mode, kind, chosen(3))
    ids = tail(mode, chosen(3))
    held = [i for block in parts for i in block.token_ids.tolist()]
    starts = [sum(block.tokens for block in parts[:n]) for n in range(len(parts))]
    places = [
        at
        for start, block in list(zip(starts, parts, strict=True))[1:]
        for at in range(start, start + min(again, block.tokens))
    ]
    whole = [*(held[at] for at in places), *ids]
    with torch.inference_mode():
        cache = prefix_cache(served.lm, parts, room=len(ids))
        expected = read_again(served.lm, cache, places, ids=held, tail=ids)
    assert made.ids[-len(whole) :] == whole
    assert (logits(served.model, [made])[0, -1] - expected).abs().max() < BOUND


@pytest.mark.parametrize(("mode", "kind"), [each for each in ALL if each[0] != "none"])
def test_what_is_read_again_changes_nothing_of_the_plain_reading(llama, mode, kind):
    one, other = (sample(mode, kind, read_again=again) for again in (0, 7))
    assert len(other.ids) == len(one.ids) + 7 * (len(one.blocks) - 1)
    rows = [rag_samples.without_blocks(rag_samples.rows([each], pad=0)) for each in (one, other)]
    size = len(tail(mode, chosen(3)))
    with torch.no_grad():
        states_ = [
            hidden_states.generative_states(llama.base_model, each)[0, -size:] for each in rows
        ]
    assert (states_[0] - states_[1]).abs().max() < BOUND


@pytest.mark.parametrize("count", [1, 2, 5])
def test_without_blocks_it_is_a_plain_prompt_of_what_mode_doc_reads(served, count):
    block = KVBlock.join(blocks(served, "doc", "causal", chosen(count)))
    ids = block.token_ids.tolist() + tail("doc", chosen(count))
    made = sample("none", documents=chosen(count))
    assert made.ids == ids
    with torch.inference_mode():
        expected = served.lm.logits(torch.tensor([ids]))[0]
    assert (logits(served.model, [made])[0] - expected).abs().max() < BOUND


def test_one_causal_document_is_the_plain_prompt_token_for_token(served):
    plain, cached = (sample(mode, "causal", documents=[GOLD]) for mode in ("none", "doc"))
    assert (plain.ids, plain.positions, plain.trained) == (
        cached.ids,
        cached.positions,
        cached.trained,
    )
    assert torch.equal(seen_in(plain), seen_in(cached))


def test_the_kind_of_blocks_and_their_borders_matter(llama):
    """The bound above means something."""
    one, other, plain = sample("doc", "bidirectional"), sample("doc", "causal"), sample("none")
    size = len(tail("doc", []))
    both, alone = logits(llama, [one, other])[:, -size:], logits(llama, [plain])[0, -size:]
    for ours, theirs in ((both[0], both[1]), (both[0], alone), (both[1], alone)):
        assert (ours - theirs).abs().max() > 100 * BOUND


@pytest.mark.parametrize(("mode", "kind"), ALL)
def test_exactly_the_answer_and_its_end_are_trained(mode, kind):
    made = sample(mode, kind)
    labels = rag_samples.rows([made], pad=0).labels_BL[0]
    trained = TOKENS.tokenizer.decode(labels[labels != losses.IGNORE])
    assert trained == f"{ROW.answer}</s>"
    assert made.trained[0][1] == len(made.ids)


@pytest.mark.parametrize(("mode", "kind"), ALL)
def test_only_the_first_bos_is_seen_by_what_follows(mode, kind):
    made = sample(mode, kind)
    seen = seen_in(made)[-1]
    assert [made.ids[i] for i in seen.nonzero()[:, 0]].count(1) == 1
    assert [made.ids[i] for i in made.unseen] == [1] * (max(1, len(made.blocks)) - 1)
    served = [at for i, at in enumerate(made.positions) if i not in made.unseen]
    assert served == list(range(len(served)))


def test_a_tokenizer_without_bos_leaves_nothing_unseen():
    bare = tiny.tokenizer()
    bare.backend_tokenizer.post_processor = None
    made = sample(tokens=SegmentTokenizer(bare))
    assert made.unseen == ()
    assert made.positions == tuple(range(len(made.ids)))
    assert len(made.blocks) == 3


def test_a_string_that_ends_embedded_texts_stands_in_every_block():
    made = sample("doc-query", embed_eos="</s>")
    assert [made.ids[block.end - 1] for block in made.blocks] == [2] * 4


@pytest.mark.parametrize("mode", RAG_MODES)
def test_documents_that_do_not_answer_are_left_out_first(mode):
    documents = [OTHERS[0], GOLD, OTHERS[1]]
    shorter = sample(mode, documents=[GOLD, OTHERS[1]])
    gone = sample(mode, documents=documents, max_length=_size(mode, documents) - 1)
    assert gone == shorter
    alone = sample(mode, documents=[GOLD])
    assert sample(mode, documents=documents, max_length=_size(mode, [GOLD])) == alone


@pytest.mark.parametrize("mode", RAG_MODES)
def test_then_the_document_that_answers_is_cut_at_its_end(mode):
    made = sample(mode, max_length=_size(mode, [GOLD]) - 3)
    kept = [
        text
        for text in (GOLD[:n] for n in range(len(GOLD)))
        if sample(mode, documents=[text or "x"]) == made
    ]
    assert len(kept) == 1
    assert len(made.ids) == len(sample(mode, documents=[GOLD]).ids) - 3
    assert TOKENS.tokenizer.decode(made.ids).endswith(f"{ROW.answer}</s>")


@pytest.mark.parametrize("mode", RAG_MODES)
def test_a_row_without_room_for_one_token_of_it_is_none(mode):
    size = _size(mode, [GOLD]) - len(TOKENS.pieces([GOLD], first=False)[0])
    assert sample(mode, max_length=size + 1) is not None
    assert sample(mode, max_length=size) is None


def _size(mode: str, documents: list[str]) -> int:
    """Mode none is as long as the sample of mode doc, whose tokens it reads."""
    return len(sample("doc" if mode == "none" else mode, documents=documents).ids)


def test_a_drawn_sample_can_be_drawn_again():
    one, other = (
        [rag_samples.draw(ROW, RagConfig(), r) for _ in range(20)] for r in (Random(3), Random(3))
    )
    assert one == other


def test_all_modes_kinds_numbers_and_places_are_drawn():
    random = Random(0)
    drawn = [rag_samples.draw(ROW, RagConfig(max_documents=4), random) for _ in range(2000)]
    assert {(mode, kind) for mode, kind, _ in drawn} == set(ALL)
    places = Counter((len(texts), texts.index(GOLD)) for _, _, texts in drawn)
    assert set(places) == {(k, place) for k in range(1, 5) for place in range(k)}
    assert all(len(set(texts)) == len(texts) for _, _, texts in drawn)
    assert {text for _, _, texts in drawn for text in texts} == set(ROW.documents)


def test_a_row_with_fewer_documents_than_allowed_gives_what_it_has():
    row = RagExample("Who?", (GOLD, GOLD, OTHERS[0]), "Ann.")
    drawn = {tuple(rag_samples.draw(row, RagConfig(), Random(seed))[2]) for seed in range(50)}
    assert drawn == {(GOLD,), (GOLD, OTHERS[0]), (OTHERS[0], GOLD)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_nothing(attention):
    model = tiny.model("gemma3", max_position_embeddings=512)
    model.set_attn_implementation(attention)
    samples = [sample(mode, documents=chosen(k)) for mode, k in (("doc", 1), ("query-doc", 3))]
    together = logits(model, samples)
    assert together.isfinite().all()
    for ours, each in zip(together, samples, strict=True):
        assert (ours[: len(each.ids)] - logits(model, [each])[0]).abs().max() < BOUND


def test_padding_sees_itself_and_is_seen_by_nobody_else():
    samples = [sample(documents=[GOLD]), sample()]
    size, rows = len(samples[0].ids), rag_samples.rows(samples, pad=0)
    padding = rows.seen_BLL[0, size:]
    assert torch.equal(padding[:, size:], torch.eye(len(padding), dtype=torch.bool))
    assert not padding[:, :size].any()
    assert not rows.seen_BLL[0, :size, size:].any()


def test_rows_take_their_mask_to_another_device():
    rows = rag_samples.rows([sample()], pad=0).to(torch.device("meta"))
    assert rows.seen_BLL.device.type == "meta"


@pytest.mark.parametrize("mode", ["doc", "query", "doc-query"])
def test_the_answer_teaches_how_blocks_are_read(llama, mode):
    rows = rag_samples.rows([sample(mode)], pad=0)
    inputs = llama.get_input_embeddings()(rows.ids_BL).detach().requires_grad_()
    mask = block_mask.as_mask(rows.seen_BLL, llama)
    out = llama(inputs_embeds=inputs, attention_mask=mask, position_ids=rows.position_BL)
    losses.next_token(out.logits, rows.labels_BL).backward()
    moved = inputs.grad[0].abs().sum(dim=-1) > 0
    assert moved[:-1].all()
    assert not moved[-1]


@pytest.mark.parametrize("mode", RAG_MODES)
def test_rows_read_without_blocks_equal_the_plain_sample(served, mode):
    samples = [sample(mode, documents=chosen(count)) for count in (1, 3)]
    rows = rag_samples.rows(samples, pad=0)
    plain = rag_samples.rows([rag_samples.plain(each) for each in samples], pad=0)
    with torch.no_grad():
        ours, theirs = (
            losses.supervised_states(
                hidden_states.generative_states(served.lm.decoder, each), each.labels_BL
            )
            for each in (rag_samples.without_blocks(rows), plain)
        )
    assert (ours - theirs).abs().max() < BOUND
