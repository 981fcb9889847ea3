"""GradCache (arXiv 2101.06983): exact gradients of a loss over all texts in bounded memory.

1. Embed mini-batches without a graph. 2. Compute the loss and its gradient for each vector.
3. Embed each mini-batch again, with a graph and the same random state, and run its backward pass.

As memory allows, the graphs of some mini-batches are kept from step 1; these are embedded once.

Shapes: N texts of this process, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.encoder import batches
from gritlm.lm.tokens import Prompt

Embed = Callable[[Sequence[Prompt]], Tensor]
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Ranks:
    """Collective operations of the processes; the defaults are those of a single process.

    Attributes:
        gather: returns the vectors of all processes (n1 + n2 + ..., D), with gradient, for those
            of this process (n, D).
        most: returns the maximum of a count over all processes.
        unsynced: returns a context in which gradients are not averaged (``DDP.no_sync``).
    """

    gather: Callable[[Tensor], Tensor] = lambda vectors: vectors
    most: Callable[[int], int] = lambda count: count
    unsynced: Callable[[], AbstractContextManager[object]] = nullcontext


def backward(
    embed: Embed,
    groups: Sequence[Sequence[Prompt]],
    loss: Loss,
    *,
    budget: int,
    kept: int = 0,
    ranks: Ranks | None = None,
) -> Tensor:
    """Add the gradients of ``loss(*vectors of each group)`` to the parameters; return the loss.

    Args:
        embed: function of prompts that returns vectors (n, D) with a graph to the parameters; a
            vector must not depend on the other prompts of the call.
        groups: prompts of each argument of the loss, such as queries and passages.
        loss: function of one tensor of vectors for each group, over all processes, that returns a
            scalar.
        budget: maximum number of tokens of a mini-batch; a longer text is a mini-batch of its own.
        kept: maximum number of tokens whose graphs are kept from the first pass.
        ranks: collective operations of the processes; None for a single process.

    Raises:
        InputError: there is no text.
    """
    ranks = ranks or Ranks()
    prompts = [prompt for group in groups for prompt in group]
    if not prompts:
        raise InputError("no texts to embed; expected at least one query and one passage")
    sizes = [len(group) for group in groups]
    rounds = plan(prompts, budget)
    count = ranks.most(len(rounds))
    if count == 1:
        return _loss_backward(embed(prompts), sizes, loss, ranks.gather)
    rounds = evened(rounds, count)
    # DDP averages gradients in the last backward pass, so one round is always embedded again.
    least = 0 if ranks.unsynced is nullcontext else 1
    again = ranks.most(max(least, _rounds_over(prompts, rounds, kept)))
    with ranks.unsynced():
        vectors_ND, graphs, states = _first_pass(embed, prompts, rounds, again)
    value = _loss_backward(vectors_ND.requires_grad_(), sizes, loss, ranks.gather)
    gradient_ND = vectors_ND.grad
    assert gradient_ND is not None
    for rows, vectors_nD in zip(rounds[again:], graphs, strict=True):
        with ranks.unsynced():
            _backward(vectors_nD, gradient_ND, rows)
    for number, (rows, state) in enumerate(zip(rounds[:again], states, strict=True), start=1):
        with nullcontext() if number == again else ranks.unsynced(), state.again():
            _backward(embed([prompts[row] for row in rows or [0]]), gradient_ND, rows)
    return value


def plan(prompts: Sequence[Prompt], budget: int) -> list[list[int]]:
    """Return the indices of the texts of each mini-batch: by length, longest first.

    Args:
        prompts: the texts.
        budget: maximum number of tokens of a mini-batch, padding included.
    """
    return list(batches(prompts, len(prompts), budget, padded=True))


def in_order(parts: Sequence[Tensor], rounds: Sequence[list[int]]) -> Tensor:
    """Return the vectors of all texts (N, D), in the order of the texts.

    Args:
        parts: vectors of each mini-batch.
        rounds: indices of the texts of each mini-batch.
    """
    order = torch.tensor([row for rows in rounds for row in rows], device=parts[0].device)
    return torch.cat(list(parts))[order.argsort()]


def evened(rounds: Sequence[list[int]], count: int) -> list[list[int]]:
    """Split the largest mini-batches until there are ``count``; some may be empty.

    Processes with sharded weights (FSDP) must call the model equally often.
    """
    rounds_list = [list(rows) for rows in rounds]
    while len(rounds_list) < count:
        at = max(range(len(rounds_list)), key=lambda i: len(rounds_list[i]))
        half = (len(rounds_list[at]) + 1) // 2
        rounds_list[at : at + 1] = [rounds_list[at][:half], rounds_list[at][half:]]
    return rounds_list


class RandomState:
    """Snapshot of torch's random state (CPU and current GPU)."""

    def __init__(self) -> None:
        self.devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Restore the snapshot inside the block, and the earlier state afterwards."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _rounds_over(prompts: Sequence[Prompt], rounds: Sequence[list[int]], kept: int) -> int:
    """Return how many of the first rounds must be embedded again to keep ``kept`` tokens."""
    for number in range(len(rounds), 0, -1):
        kept -= _positions([prompts[row] for row in rounds[number - 1] or [0]])
        if kept < 0:
            return number
    return 0


def _positions(prompts: Sequence[Prompt]) -> int:
    """Return the tokens of a mini-batch, padding included."""
    return len(prompts) * max(len(prompt.ids) for prompt in prompts)


def _first_pass(
    embed: Embed, prompts: Sequence[Prompt], rounds: Sequence[list[int]], again: int
) -> tuple[Tensor, list[Tensor], list[RandomState]]:
    """Return the vectors (N, D) in the order of ``prompts``, kept graphs and random states.

    Random states are those before each of the first ``again`` rounds; the graphs are those of the
    other rounds.
    """
    states: list[RandomState] = []
    graphs: list[Tensor] = []
    parts: list[Tensor] = []
    for number, rows in enumerate(rounds):
        texts = [prompts[row] for row in rows or [0]]
        if number < again:
            states.append(RandomState())
            with torch.no_grad():
                found = embed(texts)
        else:
            found = embed(texts)
            graphs.append(found)
        parts.append(found.detach()[: len(rows)])
    return in_order(parts, rounds), graphs, states


def _backward(vectors_nD: Tensor, gradient_ND: Tensor, rows: list[int]) -> None:
    vectors_nD.backward(gradient_ND[rows] if rows else torch.zeros_like(vectors_nD))


def _loss_backward(
    vectors_ND: Tensor, sizes: list[int], loss: Loss, gather: Callable[[Tensor], Tensor]
) -> Tensor:
    value = loss(*(gather(vectors_nD) for vectors_nD in vectors_ND.split(sizes)))
    value.backward()
    return value.detach()
