"""Cost of grammars in a decode step, at eight sequences of the default model.

    python -m benchmarks.serving.grammar [--model FOLDER] [--sequences 8] [--steps 48] [--rounds 5]

Sides take turns, in one process and one engine: no sequence has a grammar, half of them have one,
all have one. The part of a grammar is timed inside of the steps too (masks and accepted tokens);
its ratio to the rest of the step does not depend on other work on the machine. Then the time to
compile each grammar.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from benchmarks.common import machine, part_of, table

from gritlm import GritLM, SamplingParams
from gritlm.lm.grammar.compiler import Constraint, Grammar
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import EngineEvent, GenerateRequest, OutputDelta, RequestFailed
from gritlm.serve.engine.scheduler import Scheduler

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "hobbies": {"type": "array", "items": {"type": "string"}, "minItems": 100},
    },
    "required": ["name", "age", "hobbies"],
}
FORMATS = {
    "JSON schema": {"type": "json_schema", "json_schema": {"schema": PERSON}},
    "JSON object": {"type": "json_object"},
    "expression": {"type": "regex", "regex": "([A-Z][a-z ]{3,60}[.] ?)+"},
}


class Timed:
    """A constraint whose time is added up."""

    def __init__(self, constraint: Constraint, spent: list[float]) -> None:
        self._constraint = constraint
        self._spent = spent

    @property
    def complete(self) -> bool:
        return self._constraint.complete

    def apply(self, logits_V: torch.Tensor) -> None:
        started = time.perf_counter()
        self._constraint.apply(logits_V)
        self._spent.append(time.perf_counter() - started)

    def accept(self, token: int) -> None:
        started = time.perf_counter()
        self._constraint.accept(token)
        self._spent.append(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=None, help="left out: the default model")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    model = GritLM(chosen.model)
    print(f"{machine()}, {model.dtype}, {chosen.sequences} sequences, {chosen.steps} tokens each")
    scheduler = Scheduler(model, Limits(max_num_seqs=chosen.sequences))
    scheduler.start()
    try:
        print(compiled(model))
        for name, response_format in FORMATS.items():
            grammar = model.grammar(response_format)
            print(f"\n{name}:\n{compared(model, scheduler, grammar, chosen)}")
    finally:
        scheduler.stop(deadline_s=10)


def compared(
    model: GritLM, scheduler: Scheduler, grammar: Grammar, chosen: argparse.Namespace
) -> str:
    """Return the table of a grammar: milliseconds a step without it, with it, and its part."""
    counts = {"none": 0, "half": chosen.sequences // 2, "all": chosen.sequences}
    steps: dict[str, list[float]] = {name: [] for name in counts}
    parts: dict[str, list[float]] = {name: [] for name in counts}
    for turn in range(chosen.rounds + 1):
        for name, count in counts.items():
            spent: list[float] = []

            def start(spent: list[float] = spent) -> Timed:
                return Timed(grammar.start(), spent)

            seconds = one_round(model, scheduler, start, count, chosen)
            if turn:
                steps[name].append(seconds / chosen.steps)
                parts[name].append(sum(spent) / (seconds - sum(spent)))
    rows = [
        [
            name,
            f"{1000 * statistics.median(steps[name]):.1f}",
            f"{100 * statistics.median(parts[name]):.2f}%",
        ]
        for name in counts
    ]
    return table(["sequences with it", "ms a step", "its time to that of the rest"], rows)


def one_round(
    model: GritLM,
    scheduler: Scheduler,
    start: Callable[[], Timed],
    constrained: int,
    chosen: argparse.Namespace,
) -> float:
    """Return the seconds from the first to the last token of all sequences."""
    times: list[float] = []
    left = chosen.sequences
    ended = threading.Event()

    def deliver(event: EngineEvent) -> None:
        nonlocal left
        if isinstance(event, RequestFailed):
            raise event.error
        if isinstance(event, OutputDelta):
            times.append(time.perf_counter())
            left -= event.finish_reason is not None
            if left == 0:
                ended.set()

    base = SamplingParams(chosen.steps, temperature=1.0, ignore_eos=True)
    for number in range(chosen.sequences):
        ids = tuple(model.chat_ids(f"Describe person number {number} as JSON."))
        params = replace(base, seed=number, mask=start if number < constrained else None)
        scheduler.submit(GenerateRequest(ids, params), deliver)
    assert ended.wait(600), "the sequences have not ended"
    # Prefills come before: from the token at which all sequences run.
    return (times[-1] - times[0]) * chosen.steps / (chosen.steps - 1)


def compiled(model: GritLM) -> str:
    """Return the table of compile times; a new schema each time, as the cache knows the old."""
    rows = []
    for name, make in {"JSON schema": schema_with, "expression": expression_with}.items():
        taken = []
        for number in range(50):
            response_format = make(number)
            started = time.perf_counter()
            model.grammar(response_format)
            taken.append(time.perf_counter() - started)
        rows.append([name, *(f"{1000 * each:.1f}" for each in (taken[0], part_of(taken, 0.5)))])
    return table(["compiled", "first, ms", "median of 50, ms"], rows)


def schema_with(number: int) -> dict[str, object]:
    properties = PERSON["properties"] | {f"field{number}": {"type": "string"}}  # type: ignore[operator]
    return {"type": "json_schema", "json_schema": {"schema": PERSON | {"properties": properties}}}


def expression_with(number: int) -> dict[str, object]:
    return {"type": "regex", "regex": f"([A-Z][a-z ]{{3,{number + 10}}}[.] ?)+"}


if __name__ == "__main__":
    main()
