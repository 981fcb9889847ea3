"""What a mode will take on this machine, told before it is done: so that ``auto`` can choose.

Seconds of reading grow with the tokens read and with the pairs of tokens that attend to each
other; those of reusing with the tokens that are brought into place. Both are measured once on the
model at hand and kept beside the store.
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

from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.plan import PromptPlan
from gritlm.rag.reuse.recompute import Reread
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.runtime import replacing

_LENGTHS = (32, 128, 384, 768)  # tokens that are read to learn how long reading takes
_TAIL = 32
_REPEATS = 3
_FARTHEST = 1 << 17  # tokens of a document
NOTHING = Reread()


@dataclass(frozen=True)
class CostModel:
    """Seconds: ``call`` + ``token`` * read + ``pair`` * pairs + ``reused`` * reused.

    Attributes:
        call: of one pass, however short.
        token: of reading one token.
        pair: of one token attending to one before it.
        reused: of placing one token of a block that is in memory, in the model's number format.
        machine: where it was measured; elsewhere it is measured again.
    """

    call: float
    token: float
    pair: float
    reused: float
    machine: str

    def seconds(self, *, read: int, before: int = 0, reused: int = 0) -> float:
        """Of a pass over ``read`` tokens behind ``before`` others, ``reused`` of them placed."""
        pairs = read * before + read * (read + 1) / 2
        return self.call + self.token * read + self.pair * pairs + self.reused * reused

    def first_token(
        self, plan: PromptPlan, *, missing: Sequence[int] = (), again: Reread = NOTHING
    ) -> float:
        """Until the first token of an answer.

        Args:
            missing: tokens of each part whose block has to be computed first.
            again: tokens of the blocks that are recomputed, in the pass that reads the rest, and
                those that are read before to choose them.
        """
        behind = sum(part.tokens for part in plan.parts)
        made = sum(self.seconds(read=tokens) for tokens in missing)
        if again.selecting:  # at most: some ways of choosing read in two layers only
            made += self.seconds(read=again.selecting)
        made += again.tokens * (self.token + self.pair * (behind + len(plan.ids)))
        return made + self.seconds(read=len(plan.ids), before=behind, reused=behind)

    def break_even(self, tail: int, *, per_token: float = 0.0) -> int | None:
        """Tokens of a document from which on reusing it is faster than reading it; None: never.

        Args:
            tail: tokens that are read either way.
            per_token: seconds that only reusing takes, by token: the bytes of a token over the
                bytes a second of a disk or a network.
        """
        for tokens in range(1, _FARTHEST):
            fresh = self.seconds(read=tokens + tail)
            reused = self.seconds(read=tail, before=tokens, reused=tokens) + per_token * tokens
            if reused < fresh:
                return tokens
        return None


def calibrated(
    lm: UnifiedLM, path: Path | None, *, about: str, checkpoint: Checkpoint | None = None
) -> CostModel:
    """The model of this machine: read from ``path``, or measured and written there.

    Args:
        path: a JSON file; None keeps nothing.
        about: model and machine; a file about others is replaced.
        checkpoint: called between two passes, for who shares the model's thread.
    """
    if path is not None and (known := _read(path, about)) is not None:
        return known
    made = _measured(lm, about, checkpoint)
    if path is not None:
        with suppress(OSError), replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    return made


def _read(path: Path, about: str) -> CostModel | None:
    try:
        found = CostModel(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.machine == about else None


def _measured(lm: UnifiedLM, about: str, checkpoint: Checkpoint | None) -> CostModel:
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
        place = partial(prefix_cache, lm, [block, block], room=_TAIL)
        moved.append(_time(place, checkpoint) / (2 * held))
    call, token, pair = _fit(np.array(rows), np.array(seconds))
    return CostModel(call, token, pair, median(moved), about)


def _fit(rows_NC: np.ndarray, seconds_N: np.ndarray) -> list[float]:
    """Least squares of relative errors, no coefficient below 0."""
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
