"""Two processes on one CPU against one process with the whole batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import UnifiedLM
from gritlm.lm.vectors import mean, normalise
from gritlm.train.config import LossConfig
from gritlm.train.data import packing
from gritlm.train.data.collate import ScoredBatch
from gritlm.train.model import hidden_states
from gritlm.train.objectives import gradcache, losses
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.run import collectives
from tests import tiny
from tests.train.ranks import SIZE, joined, spawn
from tests.train.reading import Reader, distance, padded, prompts

pytestmark = pytest.mark.distributed

BOUND = 1e-5
LOSS = partial(losses.contrastive, temperature=0.1)
QUERIES, PASSAGES = prompts(5, seed=1), prompts(10, seed=2)
MINE = (slice(0, 3), slice(3, 5))  # the ranks hold different numbers of rows

Found = dict[str, tuple[Tensor, dict[str, Tensor]]]


def reader() -> Reader:
    return Reader(UnifiedLM(tiny.model()))


def share(rank: int) -> list[list]:
    """Queries of a rank and their passages, two each."""
    rows = MINE[rank]
    return [QUERIES[rows], PASSAGES[2 * rows.start : 2 * rows.stop]]


def averaged(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    for slope in gradients.values():
        torch.distributed.all_reduce(slope)
    return {name: slope / SIZE for name, slope in gradients.items()}


def gather_all(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    read = reader()
    query, passage = (collectives.gather(read(texts)) for texts in share(rank))
    loss = LOSS(query, passage)
    loss.backward()
    return loss.detach(), averaged(read.gradients())


def own_queries_only(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The queries of a rank among the passages of all; ranks weigh by their share of queries."""
    read = reader()
    queries, passages = share(rank)
    start = 2 * MINE[rank].start
    positives = torch.arange(start, start + 2 * len(queries), 2)
    loss = LOSS(read(queries), collectives.gather(read(passages)), positives=positives)
    loss = loss * len(queries) * SIZE / collectives.total(len(queries))
    loss.backward()
    mean = loss.detach().clone()
    torch.distributed.all_reduce(mean)
    return mean / SIZE, averaged(read.gradients())


def cached(rank: int, budget: int) -> tuple[Tensor, dict[str, Tensor]]:
    read = reader()
    loss = gradcache.backward(read, share(rank), LOSS, budget=budget, ranks=collectives.ranks())
    return loss, averaged(read.gradients())


def cached_in_ddp(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """DDP averages by itself, once, in the last mini-batch."""
    read = reader()
    ddp = torch.nn.parallel.DistributedDataParallel(read)
    ranks = collectives.ranks(ddp.no_sync)
    loss = gradcache.backward(ddp, share(rank), LOSS, budget=40, ranks=ranks)
    return loss, read.gradients()


def written(
    rows: packing.PackedBatch, divisor: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    model = tiny.model()
    weight = losses.token_weights(rows.labels_BL, kind="mixed", divisor=divisor)
    logits = model(rows.ids_BL, position_ids=rows.position_BL, use_cache=False).logits
    loss = losses.next_token(logits, rows.labels_BL, weight_N=weight)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def samples() -> list[Prompt]:
    return [
        Prompt(prompt.ids, trained=((number + 1, len(prompt.ids)),))
        for number, prompt in enumerate(QUERIES)
    ]


def written_in_parts(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Ranks with different numbers of supervised tokens."""
    rows = packing.packed(samples()[MINE[rank]], capacity=40)
    divisor = collectives.total(losses.divisor_of(rows.labels_BL, kind="mixed")) / SIZE
    loss, slopes = written(rows, divisor)
    torch.distributed.all_reduce(loss)
    return loss / SIZE, averaged(slopes)


def scored_in_parts(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Scored pairs, compared over both ranks, in mini-batches."""
    read, rows = reader(), MINE[rank]
    batch = scored(rows)
    found = EmbeddingObjective(LossConfig(), budget=40, at_once=40).backward(
        read, batch, collectives.ranks()
    )
    return torch.tensor(found["emb"]), averaged(read.gradients())


def scored(rows: slice) -> ScoredBatch:
    score_N = torch.tensor([3.0, 0.0, 1.0, 3.0, 2.0], dtype=torch.float64)[rows]
    return ScoredBatch(QUERIES[rows], PASSAGES[rows], [], [], score_N)


def cached_in_fsdp(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """FSDP2: each rank holds half of every weight, so all must call the model equally often."""
    decoder = tiny.model().base_model
    for layer in [*decoder.layers, decoder]:
        fully_shard(layer, mesh=init_device_mesh("cpu", (SIZE,)))

    def embed(batch: Sequence[Prompt]) -> Tensor:
        ids, mask = padded(batch)
        pooled = mask * (torch.arange(ids.shape[1]) >= batch[0].pooled[0])
        return normalise(mean(hidden_states.hidden(decoder, ids, mask, causal=False), pooled))

    ranks = collectives.ranks()
    loss = gradcache.backward(embed, share(rank), LOSS, budget=40, ranks=ranks)
    slopes = {name: p.grad.full_tensor() for name, p in decoder.named_parameters()}
    return loss, slopes


WAYS: dict[str, Callable[[int], tuple[Tensor, dict[str, Tensor]]]] = {
    "gathered": gather_all,
    "own queries only": own_queries_only,
    "gradcache": partial(cached, budget=40),
    "gradcache in one round": partial(cached, budget=10_000),
    "gradcache with one text a round": partial(cached, budget=1),
    "gradcache in DDP": cached_in_ddp,
    "gradcache in FSDP": cached_in_fsdp,
}


def all_ways(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    with joined(rank, f"{folder}/meet"):
        found = {name: way(rank) for name, way in WAYS.items()}
        values = collectives.gathered(torch.tensor([rank] * (rank + 1)))
        found["writing"] = written_in_parts(rank)
        found["scored"] = scored_in_parts(rank)
    with joined(rank, f"{folder}/meet again", timeout_s=4):
        error = left_alone(rank)
    torch.save((found, values, error), Path(folder) / f"{rank}.pt")


def left_alone(rank: int) -> str:
    """What rank 0 is told when the other one does not come."""
    if rank == 1:
        time.sleep(6)
        return ""
    try:
        return f"the largest is {collectives.most(1)}"
    except RuntimeError as error:
        return str(error)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Found, Tensor, str]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(all_ways, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_equal_one_rank(found, way):
    read = reader()
    expected = LOSS(read(QUERIES), read(PASSAGES))
    expected.backward()
    gradients = read.gradients()
    for ways, _, _ in found:
        loss, ours = ways[way]
        assert torch.allclose(loss, expected.detach(), rtol=BOUND)
        assert distance(ours, gradients) <= BOUND


def test_writing_on_two_ranks_equals_one_rank(found):
    expected, gradients = written(packing.padded(samples()))
    for ways, _, _ in found:
        loss, ours = ways["writing"]
        assert torch.allclose(loss, expected, rtol=BOUND)
        assert distance(ours, gradients) <= BOUND


def test_scored_pairs_on_two_ranks_equal_one_rank(found):
    read = reader()
    whole = scored(slice(5))
    vectors = read(whole.queries), read(whole.passages)
    expected = losses.cosent(*vectors, whole.score_N, temperature=LossConfig().scored_temperature)
    expected.backward()
    gradients = read.gradients()
    for ways, _, _ in found:
        loss, ours = ways["scored"]
        assert torch.allclose(loss, expected.detach(), rtol=BOUND)
        assert distance(ours, gradients) <= BOUND


def test_values_are_gathered_in_the_order_of_the_ranks(found):
    assert [values.tolist() for _, values, _ in found] == [[0, 1, 1], [0, 1, 1]]


def test_a_rank_that_is_left_alone_stops_with_an_error(found):
    assert "timed out" in found[0][2].lower()


def test_one_process_needs_no_group():
    vectors = torch.ones(2, 3)
    assert collectives.gather(vectors) is vectors
    assert collectives.gathered(vectors) is vectors
    assert collectives.most(3) == collectives.total(3) == 3
