"""Prediction of the time to the first token, from which ``auto`` chooses a mode.

The time of prefilling grows with the tokens read and with the pairs of tokens that attend to each
other; the time of reuse grows with the tokens moved into place. Both are measured once for each
model and machine and kept in the workspace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from gritlm.atomic import replacing
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.plan import PromptPlan
from gritlm.rag.reuse.recompute import Reread
from gritlm.rag.reuse.reuse_check import blocks_of

_LENGTHS = (32, 128, 384, 768)  # numbers of tokens for which prefilling is timed
_TAIL = 32
_REPEATS = 3
_LONGEST = 1 << 17  # tokens of a document
NOTHING = Reread()


@dataclass(frozen=True)
class CostModel:
    """Linear model: ``call`` + ``token`` * read + ``pair`` * pairs + ``reused`` * reused seconds.

    Attributes:
        call: seconds of a pass, however short.
        token: seconds of reading a token.
        pair: seconds of a token attending to an earlier one.
        reused: seconds of moving a token of a block in memory, in the model's number format.
        machine: model and machine of the measurement; elsewhere it is repeated.
    """

    call: float
    token: float
    pair: float
    reused: float
    machine: str

    def seconds(self, *, read: int, before: int = 0, reused: int = 0) -> float:
        """Return the seconds of a pass over ``read`` tokens after ``before`` others, of which
        ``reused`` are moved into place."""
        pairs = read * before + read * (read + 1) / 2
        return self.call + self.token * read + self.pair * pairs + self.reused * reused

    def first_token(
        self, plan: PromptPlan, *, missing: Sequence[int] = (), again: Reread = NOTHING
    ) -> float:
        """Return the seconds from the plan to the first token of an answer.

        Args:
            plan: the prompt.
            missing: number of tokens of each part whose block must be computed first.
            again: number of recomputed tokens, in the pass over the rest, and number of tokens
                read before to select them.
        """
        held = sum(part.tokens for part in plan.parts)
        seconds = sum(self.seconds(read=tokens) for tokens in missing)
        if again.selecting:  # an upper bound: one of the ways to select stops after two layers
            seconds += self.seconds(read=again.selecting)
        seconds += again.tokens * (self.token + self.pair * (held + len(plan.ids)))
        return seconds + self.seconds(read=len(plan.ids), before=held, reused=held)

    def break_even(self, tail: int, *, per_token: float = 0.0) -> int | None:
        """Return the shortest document, in tokens, whose reuse is faster than reading it.

        Args:
            tail: number of tokens that are read either way.
            per_token: seconds per token that only reuse takes: the bytes of a token divided by the
                bytes per second of a disk or a network.

        Returns:
            The number of tokens; None if reuse is never faster.
        """
        for tokens in range(1, _LONGEST):
            fresh = self.seconds(read=tokens + tail)
            reused = self.seconds(read=tail, before=tokens, reused=tokens) + per_token * tokens
            if reused < fresh:
                return tokens
        return None


def calibrated(
    lm: UnifiedLM, path: Path | None, *, machine: str, checkpoint: Checkpoint | None = None
) -> CostModel:
    """Return the cost model of this machine: read from ``path``, or measured and written there.

    Args:
        lm: the model.
        path: JSON file of the measurement; None keeps no file.
        machine: name of model and machine; a file with another name is replaced.
        checkpoint: checkpoint callback, called between two passes.
    """
    if path is not None and (known := _read(path, machine)) is not None:
        return known
    measured = _measure(lm, machine, checkpoint)
    if path is not None:
        with suppress(OSError), replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(measured), indent=1) + "\n", encoding="utf-8")
    return measured


def _read(path: Path, machine: str) -> CostModel | None:
    try:
        found = CostModel(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.machine == machine else None


def _measure(lm: UnifiedLM, machine: str, checkpoint: Checkpoint | None) -> CostModel:
    limit = lm.max_positions or max(_LENGTHS) + _TAIL
    lengths = [n for n in _LENGTHS if n + _TAIL < limit] or [max(1, limit // 2)]
    rows = []
    seconds = []
    moved = []
    for size in lengths:
        rows.append((1.0, size, size * (size + 1) / 2))
        seconds.append(_time(partial(_read_fresh, lm, size), checkpoint))
    for held in lengths:
        block = blocks_of(lm, [_ids(lm, held)], causal=True)[0]
        cache = prefix_cache(lm, block, room=_TAIL * (_REPEATS + 1))
        rows.append((1.0, _TAIL, _TAIL * held + _TAIL * (_TAIL + 1) / 2))
        seconds.append(_time(partial(prefill, lm, cache, _ids(lm, _TAIL)), checkpoint))
        move = partial(prefix_cache, lm, [block, block], room=_TAIL)
        moved.append(_time(move, checkpoint) / (2 * held))
    call, token, pair = _fit(np.array(rows), np.array(seconds))
    return CostModel(call, token, pair, median(moved), machine)


def _fit(rows_NC: np.ndarray, seconds_N: np.ndarray) -> list[float]:
    """Fit by least squares of relative errors, without negative coefficients."""
    active = list(range(rows_NC.shape[1]))
    found = np.zeros(rows_NC.shape[1])
    while active:
        scaled = rows_NC[:, active] / seconds_N[:, None]
        found[active] = np.linalg.lstsq(scaled, np.ones(len(seconds_N)), rcond=None)[0]
        negative = [i for i in active if found[i] < 0]
        if not negative:
            break
        active = [i for i in active if i not in negative]
        found[:] = 0
    return [float(value) for value in found]


def _time(run: Callable[[], object], checkpoint: Checkpoint | None) -> float:
    run()
    taken = []
    for _ in range(_REPEATS):
        if checkpoint is not None:
            checkpoint()
        started = perf_counter()
        run()
        taken.append(perf_counter() - started)
    return median(taken)


def _ids(lm: UnifiedLM, size: int) -> list[int]:
    return [i % int(lm.config.vocab_size) for i in range(7, 7 + size)]


def _read_fresh(lm: UnifiedLM, size: int) -> None:
    prefill(lm, prefix_cache(lm, None, room=size), _ids(lm, size))
