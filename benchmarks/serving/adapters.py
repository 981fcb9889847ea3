"""Cost of adapters that are not merged: decode steps, prefill and vectors, against merged ones.

    python -m benchmarks.serving.adapters [--adapters 4] [--repeats 20] [--dtype bfloat16]

The base of the default model, with its adapter and copies of it. Sides take turns in one process.
Times are CPU times of the process, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks.common import machine, table

from gritlm import GritLM
from gritlm.lm.generator import prefill
from gritlm.lm.hub import default_model
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.serve.engine.kv_slots import BatchedSlots
from gritlm.serve.engine.slot_table import KVSlot

HELD = 128  # tokens in each slot
TEXT = 256  # tokens of a text to embed, and of a prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtype", default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folders = {f"a{i}": Path(work) / f"a{i}" for i in range(chosen.adapters)}
        for folder in folders.values():
            shutil.copytree(default_model.ADAPTER, folder)
        shared = GritLM("base", adapters=folders, dtype=chosen.dtype)
    merged = GritLM(dtype=chosen.dtype)
    print(f"{machine()}, {shared.dtype}, {chosen.adapters} adapters of rank 32 on all layers")
    for title, sides in (
        ("a decode step of 1 sequence", steps(shared, merged, 1)),
        ("a decode step of 8 sequences", steps(shared, merged, 8)),
        (f"prefill of {TEXT} tokens", prefills(shared, merged)),
        (f"vectors of 2 texts of {TEXT} tokens", vectors(shared, merged)),
    ):
        print(f"\n{title}:\n{compared(sides, chosen.repeats)}")


def compared(sides: dict[str, Callable[[], object]], repeats: int) -> str:
    """Return the table of the sides: CPU milliseconds, and the ratio to the first side."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 2):
        for name, run in sides.items():
            started = time.process_time()
            run()
            if turn > 1:
                spent[name].append(time.process_time() - started)
    first = statistics.median(next(iter(spent.values())))
    rows = []
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        rows.append([name, f"{1000 * median:.1f}", f"{median / first:.2f}"])
    return table(["side", "CPU ms", "ratio"], rows)


def steps(shared: GritLM, merged: GritLM, count: int) -> dict[str, Callable[[], object]]:
    """Return a decode step of some sequences: one model, or the adapters in turn."""
    models = [shared.with_adapter(name) for name in shared.adapters]
    sides = {
        "merged": [merged] * count,
        "base without adapter": [shared] * count,
        "one adapter, not merged": [models[0]] * count,
    }
    for several in (2, 4):
        if several <= min(count, len(models)):
            sides[f"{several} adapters"] = [models[i % several] for i in range(count)]
    return {name: stepper(of) for name, of in sides.items()}


def stepper(models: Sequence[GritLM]) -> Callable[[], object]:
    slots = BatchedSlots(models[0].lm, len(models), HELD + 512)
    held: list[KVSlot] = []
    for number, model in enumerate(models):
        slot = slots.open((), model.lm)
        assert slot is not None, "there is a slot for each sequence"
        slots.prefill(slot, [(7 * i + number) % 4000 + 100 for i in range(HELD)], room=512)
        held.append(slot)
    return lambda: slots.step(held, [1000 + number for number in range(len(models))])


def prefills(shared: GritLM, merged: GritLM) -> dict[str, Callable[[], object]]:
    ids = [(7 * i) % 4000 + 100 for i in range(TEXT)]
    models = {"merged": merged, "one adapter, not merged": shared.with_adapter("a0")}

    def run(model: GritLM) -> Callable[[], object]:
        memory = SlotMemory(model.lm, 1, TEXT)
        return lambda: prefill(model.lm, memory.cache(0, 0), ids)

    return {name: run(model) for name, model in models.items()}


def vectors(shared: GritLM, merged: GritLM) -> dict[str, Callable[[], object]]:
    ids_T = torch.tensor([(7 * i) % 4000 + 100 for i in range(2 * TEXT)])
    models = {"merged": merged, "one adapter, not merged": shared.with_adapter("a0")}

    def run(model: GritLM) -> Callable[[], object]:
        def once() -> object:
            with torch.inference_mode():
                return model.lm.hidden_packed(ids_T, [TEXT, TEXT])

        return once

    return {name: run(model) for name, model in models.items()}


if __name__ == "__main__":
    main()
