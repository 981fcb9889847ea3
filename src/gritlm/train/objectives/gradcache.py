"""GradCache (arXiv 2101.06983): the exact gradient of a loss over all texts, in little memory.

1. Embed mini-batches without a graph. 2. Loss on all vectors, and its gradient to each of them.
3. Embed every mini-batch again, with a graph and the same random state, and go back from there.

Where memory allows, the graphs of some mini-batches are kept from step 1: these are read once.

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
    embed: Embed,
    groups: Sequence[Sequence[Prompt]],
    loss: Loss,
    *,
    budget: int,
    kept: int = 0,
    ranks: Ranks | None = None,
) -> Tensor:
    """Add the gradients of ``loss(*vectors of each group)`` to the parameters; the loss.

    Args:
        embed: prompts -> vectors (n, D) with a graph to the parameters; the vector of a prompt
            must not depend on those beside it.
        groups: what the loss takes, e.g. queries and passages.
        loss: one tensor of vectors a group, of all processes -> scalar.
        budget: most tokens of a mini-batch; a longer text is alone in its own.
        kept: most tokens whose graphs are kept from the first pass; they are not read again.

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
    # DDP averages in the pass that is read last, so with it one round is always read again.
    least = 0 if ranks.unsynced is nullcontext else 1
    again = ranks.most(max(least, _over(prompts, rounds, kept)))
    with ranks.unsynced():
        vectors_ND, graphs, states = _first_pass(embed, prompts, rounds, again)
    value = _loss_backward(vectors_ND.requires_grad_(), sizes, loss, ranks.gather)
    slope_ND = vectors_ND.grad
    assert slope_ND is not None
    for rows, vectors_nD in zip(rounds[again:], graphs, strict=True):
        with ranks.unsynced():
            _go_back(vectors_nD, slope_ND, rows)
    for number, (rows, state) in enumerate(zip(rounds[:again], states, strict=True), start=1):
        with nullcontext() if number == again else ranks.unsynced(), state.again():
            _go_back(embed([prompts[row] for row in rows or [0]]), slope_ND, rows)
    return value


def plan(prompts: Sequence[Prompt], budget: int) -> list[list[int]]:
    """Indices of the texts of each mini-batch: like-sized ones, longest first, padding counted."""
    return list(batches(prompts, len(prompts), budget, padded=True))


def in_order(parts: Sequence[Tensor], rounds: Sequence[list[int]]) -> Tensor:
    """Vectors of each mini-batch -> those of all texts (N, D), in the order of the texts."""
    order = torch.tensor([row for rows in rounds for row in rows], device=parts[0].device)
    return torch.cat(list(parts))[order.argsort()]


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


def _over(prompts: Sequence[Prompt], rounds: Sequence[list[int]], kept: int) -> int:
    """How many of the first rounds do not fit when the last ones hold ``kept`` tokens at most."""
    for number in range(len(rounds), 0, -1):
        kept -= _positions([prompts[row] for row in rounds[number - 1] or [0]])
        if kept < 0:
            return number
    return 0


def _positions(prompts: Sequence[Prompt]) -> int:
    """Tokens and padding of a mini-batch."""
    return len(prompts) * max(len(prompt.ids) for prompt in prompts)


def _first_pass(
    embed: Embed, prompts: Sequence[Prompt], rounds: Sequence[list[int]], again: int
) -> tuple[Tensor, list[Tensor], list[RandomState]]:
    """Vectors (N, D) in the order of ``prompts`` without a graph, and what is needed to go back.

    That is the random state before each of the first ``again`` rounds, and the graphs of the rest.
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


def _go_back(vectors_nD: Tensor, slope_ND: Tensor, rows: list[int]) -> None:
    vectors_nD.backward(slope_ND[rows] if rows else torch.zeros_like(vectors_nD))


def _loss_backward(
    vectors_ND: Tensor, sizes: list[int], loss: Loss, gather: Callable[[Tensor], Tensor]
) -> Tensor:
    value = loss(*(gather(vectors_nD) for vectors_nD in vectors_ND.split(sizes)))
    value.backward()
    return value.detach()
