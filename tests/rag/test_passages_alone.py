"""Passages that are read alone: the rows, their scores, and the answer of the best or of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.generator import complete
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.sampling import SamplingParams
from gritlm.rag import workspace
from gritlm.rag.engine import RagEngine
from gritlm.rag.fusion import PassageScore, passage_scores
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import PromptAssembler, rows_together
from gritlm.rag.rerank import Reranker
from gritlm.rag.retrieve import Search, candidates
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.types import Hit
from tests.rag.conftest import QUESTION, TEXTS

BOUND = 1e-5
TOKENS = 16
DOCUMENTS = [{"id": f"d{n}", "text": text, "metadata": {"n": n}} for n, text in enumerate(TEXTS)]
ALL = AnswerOptions(5, margin=2.0, sampling=SamplingParams(TOKENS))


@pytest.fixture(scope="module")
def engine(grit: GritLM, tmp_path_factory) -> Iterator[RagEngine]:
    with RagEngine.open(tmp_path_factory.mktemp("alone") / "store", grit) as made:
        made.add(DOCUMENTS)
        yield made


@pytest.fixture
def calibrate(grit: GritLM, monkeypatch):
    """Sets the calibration of the model for one test."""

    def use(cosine: float, margin: float = 2.0) -> None:
        settings = replace(grit.settings, fusion=FusionSettings(cosine, margin))
        monkeypatch.setattr(grit, "settings", settings)

    return use


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors of logits differ by rounding only."""
    return float((ours - theirs).abs().max()) <= BOUND * max(1.0, float(theirs.abs().max()))


@torch.inference_mode()
def plain_logits(engine: RagEngine, ids: list[int]) -> Tensor:
    """Logits (T, V) of one pass over a prompt, without any cache."""
    return engine.model.lm.causal(torch.tensor([ids]), use_cache=False).logits[0]


def prompt_of(engine: RagEngine, hits: list[Hit]) -> list[int]:
    plan = PromptAssembler(engine.model).plan("none", QUESTION, hits, max_new_tokens=TOKENS)
    return list(plan.ids)


def greedy(engine: RagEngine, ids: list[int]) -> str:
    """The plain answer to a prompt."""
    tokens = complete(
        engine.model.lm,
        ids,
        sampler=SamplingParams().sampler(),
        max_new_tokens=TOKENS,
        end_ids=engine.model.end_ids,
    )
    return str(engine.model.tokenizer.decode(list(tokens)))


@pytest.mark.parametrize("blocks", ["causal", "bidirectional"])
@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_one_candidate_is_the_prompt_of_that_passage(engine, calibrate, number, blocks):
    calibrate(1.0)
    one = replace(ALL, top_k=1, blocks=blocks, filter={"n": number})
    engine.prepare(QUESTION, one)  # computes a bidirectional block
    joint = engine.prepare(QUESTION, replace(one, fusion="joint"))
    sequence = engine.prepare(QUESTION, one)
    assert torch.equal(sequence.prompt.logits_V, joint.prompt.logits_V)
    assert sequence.trace.tokens_read == joint.trace.tokens_read
    assert engine.answer(QUESTION, one).text == (engine.answer(QUESTION, one, fusion="joint").text)


def test_the_best_row_goes_on_as_a_prompt_of_its_passage_alone(engine, calibrate):
    calibrate(0.5)
    answer = engine.answer(QUESTION, ALL)
    best = answer.sources[0]
    hits = [hit for hit in engine.retrieve(QUESTION, top_k=5) if hit.passage.id == best.id]
    assert answer.text == greedy(engine, prompt_of(engine, hits))
    prepared = engine.prepare(QUESTION, ALL).prompt
    assert near(prepared.logits_V, plain_logits(engine, prompt_of(engine, hits))[-1])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_joint_without_reuse_is_the_plain_prompt(engine, count):
    hits = engine.retrieve(QUESTION, top_k=count)
    ids = prompt_of(engine, hits)
    fresh = replace(ALL, fusion="joint", mode="none")
    logits_V = engine.prepare(QUESTION, fresh, hits=hits).prompt.logits_V
    assert near(logits_V, plain_logits(engine, ids)[-1])
    assert engine.answer(QUESTION, fresh, hits=hits).text == greedy(engine, ids)


@pytest.mark.parametrize("fusion", ["sequence", "token"])
def test_fresh_passages_are_read_as_causal_blocks_are(engine, calibrate, fusion):
    calibrate(1.0)
    cached = engine.answer(QUESTION, ALL, fusion=fusion, blocks="causal")
    fresh = engine.answer(QUESTION, ALL, fusion=fusion, mode="none")
    assert fresh.text == cached.text
    assert [each.id for each in fresh.sources] == [each.id for each in cached.sources]
    assert fresh.trace.tokens_reused == 0 < cached.trace.tokens_reused


@pytest.mark.parametrize("calibrated", [True, False])
def test_token_with_one_row_is_sequence(engine, calibrate, calibrated):
    if calibrated:
        calibrate(1.0)
    one = replace(ALL, top_k=1)
    sequence, token = (
        engine.answer(QUESTION, one, fusion=fusion) for fusion in ("sequence", "token")
    )
    assert token.text == sequence.text
    assert [each.id for each in token.sources] == [each.id for each in sequence.sources]
    alone, mixed = (
        engine.prepare(QUESTION, replace(one, fusion=fusion)).prompt.logits_V
        for fusion in ("sequence", "token")
    )
    assert near(mixed, alone.log_softmax(dim=0))


def test_the_likelihood_is_that_of_the_question_in_a_plain_prompt(engine, calibrate):
    calibrate(1.0)
    assembler = PromptAssembler(engine.model)
    answer = engine.answer(QUESTION, ALL)
    assert len(answer.sources) == len(TEXTS)
    hits = {hit.passage.id: hit for hit in engine.retrieve(QUESTION, top_k=5)}
    words = engine.model.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    for source in answer.sources:
        (row,) = assembler.rows(QUESTION, [hits[source.id]], max_new_tokens=TOKENS)
        begin, end = row.question_span
        assert set(words) & set(row.ids[begin:end])
        ids = [*row.parts[0].ids, *row.ids]
        held = len(row.parts[0].ids)
        logprob_TV = plain_logits(engine, ids).log_softmax(dim=-1)
        exact = [float(logprob_TV[held + at - 1, row.ids[at]]) for at in range(begin, end)]
        assert source.likelihood == pytest.approx(sum(exact) / len(exact), rel=BOUND)


def test_the_span_of_the_question_holds_its_words(engine):
    (hit,) = engine.retrieve(QUESTION, top_k=1)
    (row,) = PromptAssembler(engine.model).rows(QUESTION, [hit], max_new_tokens=TOKENS)
    begin, end = row.question_span
    assert engine.model.tokenizer.decode(row.ids[begin:end]).strip() == QUESTION


@pytest.mark.parametrize("cosine", [0.0, 1.0, 1e6])
def test_a_calibrated_model_answers_from_the_highest_score(engine, calibrate, cosine):
    calibrate(cosine)
    answer = engine.answer(QUESTION, ALL)
    scores = answer.trace.scores
    for each in scores:
        assert each["score"] == pytest.approx(each["likelihood"] + cosine * each["cosine"])
    assert [each["score"] for each in scores] == sorted(
        (each["score"] for each in scores), reverse=True
    )
    assert [source.id for source in answer.sources] == [each["passage"] for each in scores]
    assert [source.used for source in answer.sources] == [True] + [False] * (len(scores) - 1)
    if cosine in (0.0, 1e6):
        key = "likelihood" if cosine == 0 else "cosine"
        assert scores[0][key] == max(each[key] for each in scores)


def test_the_score_and_the_cosine_differ_in_some_question(engine, calibrate):
    calibrate(0.0)
    answers = [engine.answer(text, ALL, max_new_tokens=1) for text in (QUESTION, *TEXTS)]
    by_score = [answer.sources[0].id for answer in answers]
    calibrate(1e6)
    answers = [engine.answer(text, ALL, max_new_tokens=1) for text in (QUESTION, *TEXTS)]
    assert by_score != [answer.sources[0].id for answer in answers]


def test_without_calibration_the_best_cosine_is_read_alone(engine):
    assert engine.model.settings.fusion is None
    best = engine.retrieve(QUESTION, top_k=5)[0]
    answer = engine.answer(QUESTION, ALL)
    (source,) = answer.sources
    assert (source.id, source.used, source.likelihood) == (best.passage.id, True, None)
    assert answer.trace.scores == []
    assert answer.trace.tokens_selecting == 0


def test_without_calibration_the_rows_of_token_are_weighted_by_the_cosine(engine):
    answer = engine.answer(QUESTION, ALL, fusion="token")
    assert [source.used for source in answer.sources] == [True] * 5
    assert [each["score"] for each in answer.trace.scores] == [s.score for s in answer.sources]


@pytest.mark.parametrize("fusion", ["sequence", "token"])
def test_candidates_outside_the_margin_are_not_read(engine, calibrate, fusion):
    hits = engine.retrieve(QUESTION, top_k=5)
    margin = (hits[0].score - hits[2].score + hits[0].score - hits[1].score) / 2
    for options in (replace(ALL, margin=margin), replace(ALL, margin=None)):
        calibrate(1.0, margin)
        answer = engine.answer(QUESTION, options, fusion=fusion)
        assert {source.id for source in answer.sources} == {hit.passage.id for hit in hits[:2]}
        assert len(answer.trace.scores) == 2
    assert len(engine.answer(QUESTION, ALL, fusion=fusion).sources) == 5


def test_candidates_are_those_within_the_margin_in_their_order(hits):
    ordered = [replace(hit, score=score) for hit, score in zip(hits, (0.7, 0.9, 0.5), strict=False)]
    calibrated = FusionSettings(1.0, 0.2)
    for fusion in ("sequence", "token"):
        assert candidates(ordered, calibrated, fusion=fusion, margin=None) == ordered[:2]
        assert candidates(ordered, calibrated, fusion=fusion, margin=0.0) == ordered[:2]
    assert candidates(ordered, None, fusion="sequence", margin=2.0) == ordered[:1]
    assert candidates(ordered, None, fusion="token", margin=None) == ordered


def test_scores_without_calibration_are_cosines(hits):
    assert passage_scores(hits[:1], [-3.0], None) == [PassageScore("p1", 0.5, -3.0, 0.5)]
    assert passage_scores(hits[:1], [-3.0], FusionSettings(2.0, 0.1)) == [
        PassageScore("p1", 0.5, -3.0, -2.0)
    ]


@pytest.mark.parametrize("contrast", [0.0, 0.5])
def test_the_mixture_is_that_of_single_prompts(engine, calibrate, contrast):
    calibrate(1.0)
    options = replace(ALL, fusion="token", contrast=contrast)
    prepared = engine.prepare(QUESTION, options)
    hits = {hit.passage.id: hit for hit in engine.retrieve(QUESTION, top_k=5)}
    scores = prepared.trace.scores
    weight_B = (torch.tensor([each["score"] for each in scores]) / 0.1).softmax(dim=0)
    prompts = [prompt_of(engine, [hits[each["passage"]]]) for each in scores]
    plan = PromptAssembler(engine.model).rows(
        QUESTION, [hits[scores[0]["passage"]]], max_new_tokens=1
    )
    bare = list(plan[0].ids)
    written: list[int] = []
    logits_V = prepared.prompt.logits_V
    for _ in range(4):
        probability_V = sum(
            weight * plain_logits(engine, ids + written)[-1].softmax(dim=0)
            for weight, ids in zip(weight_B, prompts, strict=True)
        )
        expected_V = probability_V.log()
        if contrast:
            alone_V = plain_logits(engine, bare + written)[-1].log_softmax(dim=0)
            expected_V = (1 + contrast) * expected_V - contrast * alone_V
        assert (logits_V - expected_V).abs().max() < 1e-4
        written.append(int(logits_V.argmax()))
        logits_V = prepared.prompt.mixed.step(written[-1])


@pytest.mark.parametrize(("contrast", "rows"), [(0.0, 5), (0.5, 6)])
def test_the_row_without_passage_is_decoded_for_a_contrast_only(
    engine, grit, monkeypatch, contrast, rows
):
    settings = replace(grit.settings, fusion=FusionSettings(1.0, 2.0, absent=0.1))
    monkeypatch.setattr(grit, "settings", settings)
    passes: list[tuple[int, int]] = []
    prefill = RowBatch.prefill_rows

    def noted(batch, ids, *, keep=1):
        passes.append((len(ids), len(ids[0])))
        return prefill(batch, ids, keep=keep)

    monkeypatch.setattr(RowBatch, "prefill_rows", noted)
    options = replace(ALL, fusion="token", contrast=contrast)
    query = engine.query(QUESTION, options)
    hits = engine.nearest(query, options)
    plan = engine.plan(query, hits, options)
    prepared = engine.read(query, plan, options)
    prepared.prompt.mixed.step(5)
    assert [count for count, _ in passes] == [6, rows, rows]
    assert plan.sequences == len(prepared.prompt.caches) == rows
    assert prepared.trace.supported is not None
    ((_, question), (_, rest), _) = passes
    assert prepared.trace.tokens_selecting == 5 * question + (rows - 1) * rest
    for cache, source in zip(prepared.prompt.caches, plan.rows, strict=False):
        assert cache.get_seq_length() == source.tokens + 1


@pytest.mark.parametrize("fusion", ["sequence", "token", "joint"])
def test_blocks_that_are_missing_or_damaged_change_no_answer(grit, calibrate, tmp_path, fusion):
    calibrate(1.0)
    options = replace(ALL, fusion=fusion)
    place = tmp_path / "store"
    with RagEngine.open(place, grit) as engine:
        engine.add(DOCUMENTS)
        whole = engine.answer(QUESTION, options)
        assert whole.trace.tokens_computed == 0
        ids = PromptAssembler(grit).passage_ids([TEXTS[0], TEXTS[3]])
        engine.store.delete([engine.store.key(each, causal=True) for each in ids])
        missing = engine.answer(QUESTION, options)
        assert missing.trace.tokens_computed == sum(map(len, ids))
        assert engine.answer(QUESTION, options).trace.tokens_computed == 0
    (segment,) = (place / "kv").rglob("*.kv")
    content = bytearray(segment.read_bytes())
    for at in range(4096, len(content), 4096):
        content[at] ^= 1
    segment.write_bytes(content)
    with RagEngine.open(place, grit) as engine:
        damaged = engine.answer(QUESTION, options)
        assert damaged.trace.tokens_computed > 0
        assert engine.store.damages
    assert missing.text == damaged.text == whole.text
    ids = [source.id for source in whole.sources]
    assert [source.id for source in missing.sources] == ids
    assert [source.id for source in damaged.sources] == ids


@pytest.mark.parametrize("fusion", ["sequence", "token"])
def test_a_passage_that_does_not_fit_is_dropped_and_the_others_answer(
    grit, calibrate, tmp_path, fusion
):
    calibrate(0.0)
    options = replace(ALL, fusion=fusion)
    with RagEngine.open(tmp_path / "store", grit, longest=120) as engine:
        engine.add({"id": "short", "text": TEXTS[0]})
        short = engine.answer(QUESTION, options)
        engine.add({"id": "long", "text": "Ann has a red ball. " * 10})
        both = engine.answer(QUESTION, options)
        (long,) = engine.index.passages("long")
        assert both.trace.dropped == (long.id,)
        assert both.text == short.text
        assert [source.document_id for source in both.sources] == ["short"]
        with pytest.raises(InputError, match="the question and its shortest passage have"):
            engine.answer(QUESTION, options, max_new_tokens=100)


@pytest.mark.parametrize("fusion", ["sequence", "token", "joint"])
def test_a_question_longer_than_the_model_takes_is_refused(engine, fusion):
    with pytest.raises(InputError, match="tokens"):
        engine.answer("word " * 900, ALL, fusion=fusion)


def test_a_workspace_of_an_earlier_version_holds_bidirectional_blocks(grit, tmp_path):
    place = tmp_path / "store"
    with RagEngine.open(place, grit, blocks="bidirectional") as engine:
        engine.add(DOCUMENTS)
    file = place / workspace.NAME
    content = json.loads(file.read_text())
    assert content.pop("blocks") == "bidirectional"
    file.write_text(json.dumps(content))
    with RagEngine.open(place, grit) as engine:
        assert engine.blocks == "bidirectional"
        trace = engine.answer(QUESTION, ALL).trace
        assert (trace.blocks, trace.tokens_computed) == ("bidirectional", 0)
        engine.add({"id": "new", "text": "Something new."})
        assert engine.answer(QUESTION, ALL, fusion="joint").trace.tokens_computed == 0
    with pytest.raises(InputError, match="blocks"):
        RagEngine.open(place, grit, blocks="causal")
    with RagEngine.open(tmp_path / "other", grit) as engine:
        assert engine.blocks == "causal"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "chain"}, "expected one of sequence, token, joint"),
        ({"fusion": "sequence", "mode": "query"}, "use fusion='joint', or mode 'doc'"),
        ({"fusion": "token", "mode": "query-doc"}, "use fusion='joint', or mode 'doc'"),
        ({"margin": -0.1}, "margin is -0.1; expected a cosine from 0 to 2"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"contrast": -1.0, "fusion": "token"}, "contrast is -1.0; expected a finite number"),
        ({"contrast": float("inf"), "fusion": "token"}, "contrast is inf"),
        ({"contrast": 0.5}, "only fusion 'token' has one; leave it 0"),
        ({"blocks": "both"}, "expected one of bidirectional, causal"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        AnswerOptions(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cosine": -1.0, "margin": 0.1}, "fusion.cosine=-1.0; expected a finite number >= 0"),
        ({"cosine": 1.0, "margin": float("nan")}, "fusion.margin=nan"),
        ({"cosine": True, "margin": 0.1}, "fusion.cosine=True"),
        ({"cosine": 1.0, "margin": 0.1, "absent": float("inf")}, "fusion.absent=inf"),
    ],
)
def test_a_calibration_out_of_range_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        FusionSettings(**settings)
    assert FusionSettings(1.0, 0.1, -0.2).absent == -0.2


def test_the_default_fusion_follows_the_mode():
    assert AnswerOptions().fuses == "sequence"
    assert AnswerOptions(fusion="token").fuses == "token"
    for mode in ("none", "query", "doc-query", "query-doc"):
        assert AnswerOptions(mode=mode).fuses == "joint"


@pytest.mark.parametrize("cosine", [0.0, 0.5, 1e6])
def test_reranking_by_likelihood_is_the_order_of_the_fusion(engine, calibrate, cosine):
    calibrate(cosine)
    scores = engine.answer(QUESTION, ALL).trace.scores
    search = Search(top_k=5, rerank=5, rerank_method="likelihood")
    assert [hit.passage.id for hit in engine.find(QUESTION, search)] == [
        each["passage"] for each in scores
    ]
    blocks = BlockProvider(engine.model.lm, engine.store)
    reranker = Reranker(engine.model, blocks, PromptAssembler(engine.model), causal=True)
    hits = engine.retrieve(QUESTION, top_k=5)
    ranked = reranker.ranked(QUESTION, hits, method="likelihood")
    for (hit, score), each in zip(ranked, scores, strict=True):
        assert hit.passage.id == each["passage"]
        assert score == pytest.approx(each["score"], rel=BOUND)
    assert [hit.rank for hit, _ in ranked] == [1, 2, 3, 4, 5]


def test_reranking_by_likelihood_without_calibration_leaves_the_cosine_out(engine, calibrate):
    search = Search(top_k=5, rerank=5, rerank_method="likelihood")
    found = [hit.passage.id for hit in engine.find(QUESTION, search)]
    calibrate(0.0)
    scores = engine.answer(QUESTION, ALL).trace.scores
    assert found == [each["passage"] for each in scores]
    answer = engine.answer(QUESTION, ALL, rerank=5, rerank_method="likelihood", top_k=1)
    assert [source.id for source in answer.sources] == found[:1]


def test_candidates_that_are_reranked_are_read_in_batches(engine, monkeypatch):
    search = Search(top_k=5, rerank=5, rerank_method="likelihood")
    whole = [hit.passage.id for hit in engine.find(QUESTION, search)]
    monkeypatch.setattr("gritlm.rag.plan.MOST_ROWS", 2)
    calls: list[int] = []
    found = engine.find(QUESTION, search, checkpoint=lambda: calls.append(1))
    assert [hit.passage.id for hit in found] == whole
    assert rows_together([60] * 5) == 2


def test_rows_are_read_together_up_to_a_number_of_tokens(engine, calibrate, monkeypatch):
    calibrate(1.0)
    assert rows_together([100] * 90) == 32
    assert rows_together([40_000, 10, 10]) == rows_together([10**6]) == 1
    assert rows_together([10_000] * 9) == 6
    monkeypatch.setattr("gritlm.rag.plan._MOST_TOKENS", 350)
    answer = engine.answer(QUESTION, ALL)
    assert 0 < len(answer.sources) < len(TEXTS)
    dropped = len(TEXTS) - len(answer.sources)
    assert len(answer.trace.dropped) == dropped


@pytest.mark.parametrize("positions", [1, 5, 12, 23])
def test_a_question_is_read_in_pieces_when_its_logits_are_large(
    engine, calibrate, monkeypatch, positions
):
    calibrate(1.0)
    whole = engine.prepare(QUESTION, ALL)
    monkeypatch.setattr("gritlm.rag.fusion._MOST_POSITIONS", positions)
    held: list[int] = []
    prefill = RowBatch.prefill_rows

    def noted(batch, ids, *, keep=1):
        held.append(len(batch.lengths) * keep)
        return prefill(batch, ids, keep=keep)

    monkeypatch.setattr(RowBatch, "prefill_rows", noted)
    pieces = engine.prepare(QUESTION, ALL)
    assert max(held) <= max(positions, 2 * len(TEXTS))
    assert len(held) > 1
    for ours, theirs in zip(pieces.trace.scores, whole.trace.scores, strict=True):
        assert ours["likelihood"] == pytest.approx(theirs["likelihood"], rel=BOUND)
    assert near(pieces.prompt.logits_V, whole.prompt.logits_V)


def test_a_bounded_number_of_passages_is_read_alone(hits):
    many = [replace(hits[0], rank=rank) for rank in range(100)]
    assert candidates(many, FusionSettings(1.0, 0.1), fusion="token", margin=2.0) == many[:32]


@pytest.mark.parametrize("fusion", ["sequence", "token", "joint"])
def test_answers_are_the_same_without_drafts(engine: RagEngine, fusion):
    with_drafts = replace(ALL, fusion=fusion, sampling=SamplingParams(40))
    without = replace(with_drafts, sampling=SamplingParams(40, prompt_lookup_num_tokens=0))
    assert engine.answer(QUESTION, with_drafts).text == engine.answer(QUESTION, without).text
