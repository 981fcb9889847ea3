"""GradCache (arXiv 2101.06983): the exact gradient of a loss over all texts, in little memory.

1. Embed mini-batches without a graph. 2. Loss on all vectors, and its gradient to each of them.
3. Embed every mini-batch again, with a graph and the same random state, and go back from there.

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
    """What processes that train together do together; by default there is one.

    Attributes:
        gather: vectors of this process (n, D) -> those of all (n1 + n2 + ..., D), with gradient.
        most: a count of this process -> the largest count of all processes.
        unsynced: a context in which gradients are not yet averaged (``DDP.no_sync``).
    """

    gather: Callable[[Tensor], Tensor] = lambda vectors: vectors
    most: Callable[[int], int] = lambda count: count
    unsynced: Callable[[], AbstractContextManager[object]] = nullcontext


def backward(
    embed: Embed, groups: Sequence[Sequence[Prompt]], loss: Loss, *, budget: int,
    ranks: Ranks | None = None,
) -> Tensor:  # fmt: skip
    """Add the gradients of ``loss(*vectors of each group)`` to the parameters; the loss.

    Args:
        embed: prompts -> vectors (n, D) with a graph to the parameters; the vector of a prompt
            must not depend on those beside it.
        groups: what the loss takes, e.g. queries and passages.
        loss: one tensor of vectors a group, of all processes -> scalar.
        budget: most tokens of a mini-batch; a longer text is alone in its own.

    Raises:
        InputError: when there is no text at all.
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
    vectors_ND, states = _without_graph(embed, prompts, rounds)
    value = _loss_backward(vectors_ND.requires_grad_(), sizes, loss, ranks.gather)
    slope_ND = vectors_ND.grad
    assert slope_ND is not None
    for number, (rows, state) in enumerate(zip(rounds, states, strict=True), start=1):
        with nullcontext() if number == count else ranks.unsynced(), state.again():
            vectors_nD = embed([prompts[row] for row in rows or [0]])
            vectors_nD.backward(slope_ND[rows] if rows else torch.zeros_like(vectors_nD))
    return value


def plan(prompts: Sequence[Prompt], budget: int) -> list[list[int]]:
    """Indices of the texts of each mini-batch: like-sized ones, longest first."""
    return list(batches(prompts, len(prompts), budget))


def evened(rounds: Sequence[list[int]], count: int) -> list[list[int]]:
    """The same texts in ``count`` mini-batches: large ones are split, empty ones added if needed.

    Processes that share the weights of each layer (FSDP) must call the model equally often.
    """
    made = [list(rows) for rows in rounds]
    while len(made) < count:
        at = max(range(len(made)), key=lambda i: len(made[i]))
        half = (len(made[at]) + 1) // 2
        made[at : at + 1] = [made[at][:half], made[at][half:]]
    return made


class RandomState:
    """The state of torch's random numbers at the moment it is made (CPU and current GPU)."""

    def __init__(self) -> None:
        self.devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Random numbers from this state on; afterwards they go on as if nothing had been."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


@torch.no_grad()
def _without_graph(
    embed: Embed, prompts: Sequence[Prompt], rounds: Sequence[list[int]]
) -> tuple[Tensor, list[RandomState]]:
    """Vectors (N, D) in the order of ``prompts``, and the random state before each mini-batch."""
    states, parts = [], []
    for rows in rounds:
        states.append(RandomState())
        parts.append(embed([prompts[row] for row in rows or [0]])[: len(rows)])
    order = torch.tensor([row for rows in rounds for row in rows], device=parts[0].device)
    return torch.cat(parts)[order.argsort()], states


def _loss_backward(
    vectors_ND: Tensor, sizes: list[int], loss: Loss, gather: Callable[[Tensor], Tensor]
) -> Tensor:
    value = loss(*(gather(vectors_nD) for vectors_nD in vectors_ND.split(sizes)))
    value.backward()
    return value.detach()
