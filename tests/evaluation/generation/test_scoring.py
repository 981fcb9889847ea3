from __future__ import annotations

import pytest
import torch

from gritlm.evaluation.generation import loglikelihood, shared_prefixes
from gritlm.evaluation.memory import BatchSizeReducer
from gritlm.lm.unified import UnifiedLM
from tests import tiny

CONTEXT, OTHER = tuple(range(10, 30)), (40, 41, 42)
PAIRS = [
    (CONTEXT, (5, 6, 7)),
    (CONTEXT, (5, 6, 8)),
    (CONTEXT, (9,)),
    (CONTEXT, (11,)),
    (OTHER, (5, 6)),
    (OTHER, (7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7)),
    ((3,), (4,)),
]


def alone(lm: UnifiedLM, pair: shared_prefixes.Pair) -> float:
    """One pair by itself, all logits, no mask."""
    context, continuation = pair
    ids = torch.tensor([[*context, *continuation]])
    told = lm.causal(ids).logits[0].log_softmax(dim=-1)
    places = range(len(context) - 1, ids.shape[1] - 1)
    return sum(float(told[at, token]) for at, token in zip(places, continuation, strict=True))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_tree_gives_the_scores_of_each_text_alone(family):
    lm = UnifiedLM(tiny.model(family))
    found = dict(loglikelihood.scores(lm, PAIRS))
    assert shared_prefixes.can_branch(lm)
    with torch.inference_mode():
        for pair in PAIRS:
            assert found[pair][0] == pytest.approx(alone(lm, pair), abs=1e-4)


def test_a_model_that_takes_no_masks_reads_one_text_after_the_other(monkeypatch):
    lm = UnifiedLM(tiny.model())
    expected = dict(loglikelihood.scores(lm, PAIRS))
    monkeypatch.setattr(lm.config, "_attn_implementation", "flash_attention_2")
    assert not shared_prefixes.can_branch(lm)
    monkeypatch.setattr(shared_prefixes, "can_branch", lambda lm: False)
    monkeypatch.setattr(lm.config, "_attn_implementation", "sdpa")
    monkeypatch.setattr(shared_prefixes, "masks", None)  # must not be called
    found = dict(loglikelihood.scores(lm, PAIRS))
    for pair, (score, greedy) in expected.items():
        assert found[pair] == (pytest.approx(score, abs=1e-4), greedy)


@pytest.mark.parametrize("budget", [1, 30, 1000])
def test_the_size_of_batches_changes_nothing(budget):
    lm = UnifiedLM(tiny.model())
    expected = dict(loglikelihood.scores(lm, PAIRS, budget=200))
    for pair, (score, greedy) in loglikelihood.scores(lm, PAIRS, budget=budget):
        assert expected[pair] == (pytest.approx(score, abs=1e-4), greedy)


def test_what_continuations_share_is_read_once():
    grown = shared_prefixes.build_trees([*PAIRS, *PAIRS], together=True)
    assert [tree.ids for tree in grown] == [
        [*CONTEXT, 5, 6],  # (5, 6, 7) and (5, 6, 8) differ in what is only predicted
        [*OTHER, 5, *[7] * 10],
        [3],
    ]
    assert sorted(pair for tree in grown for pair in tree.pairs) == sorted(PAIRS)


def test_a_greedy_continuation_is_called_one():
    model = tiny.model()
    ids = model.generate(torch.tensor([OTHER]), max_new_tokens=4, do_sample=False)[0].tolist()
    greedy = tuple(ids[len(OTHER) :])
    other = (*greedy[:-1], (greedy[-1] + 1) % 400)
    found = dict(loglikelihood.scores(UnifiedLM(model), [(OTHER, greedy), (OTHER, other)]))
    assert [found[OTHER, one][1] for one in (greedy, other)] == [True, False]


class SmallMemory:
    """Reads at most two items at once."""

    def __init__(self, message: str) -> None:
        self.sizes: list[int] = []
        self.message = message

    def __call__(self, items):
        self.sizes.append(len(items))
        if len(items) > 2:
            raise RuntimeError(self.message)
        return [item * 10 for item in items]


@pytest.mark.parametrize(
    "said", ["CUDA out of memory. Tried to allocate", "DefaultCPUAllocator: can't allocate memory"]
)
def test_without_memory_the_batch_halves_and_later_ones_stay_small(said, caplog):
    read, halver = SmallMemory(said), BatchSizeReducer()
    assert halver.run(read, range(7)) == [item * 10 for item in range(7)]
    assert read.sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert halver.run(read, range(2)) == [0, 10]
    assert "out of memory with 7 rows in a batch; now 3" in caplog.text


def test_an_error_of_another_kind_is_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"):
        BatchSizeReducer().run(SmallMemory("shapes cannot be multiplied"), range(7))


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        BatchSizeReducer().run(_never, [1, 2])


def _never(items):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_scores_go_on_when_memory_runs_out(monkeypatch):
    lm = UnifiedLM(tiny.model())
    expected = dict(loglikelihood.scores(lm, PAIRS))
    whole = loglikelihood._read

    def small(lm, chosen):
        if len(chosen) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(lm, chosen)

    monkeypatch.setattr(loglikelihood, "_read", small)
    found = dict(loglikelihood.scores(lm, PAIRS))
    assert found.keys() == expected.keys()
    assert all(found[p][0] == pytest.approx(expected[p][0], abs=1e-4) for p in PAIRS)
