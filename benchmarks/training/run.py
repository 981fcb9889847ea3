"""Speed and memory of a training step, compared with sentence-transformers and TRL.

    python -m benchmarks.training.run [--model FOLDER] [--only contrastive generative memory]
        [--pairs 64] [--chats 8] [--max-length 64] [--row 512] [--repeats 3]

contrastive: GradCache compared with CachedMultipleNegativesRankingLoss of sentence-transformers.
generative: packed chats compared with TRL's SFTTrainer, padded and packed.
memory: the peak of GradCache for batches of many sizes under one token budget.

All sides have the same weights (all trained, float32, with autocast to bfloat16 if the machine
supports it), the same token ids and threads, and alternate in one run. A step is forward, loss and
backward, without tokenization and optimizer. Token counts exclude padding.

The default sizes take six minutes on two cores; for a GPU use, for example, --pairs 1024
--chats 128 --max-length 512 --row 2048 --memory-budget 8192.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import alternate, machine, peak_memory, peak_tflops, table
from benchmarks.training import ours, peers
from benchmarks.training.memory import MemoryCase, growths
from benchmarks.training.ours import Step
from transformers.utils import logging as transformers_logging

from gritlm.train.data.loader import Batch
from gritlm.train.trainer import Trainer

OURS = "gritlm"
LARGEST_GAP = 1e-3  # between the losses of two sides in float32, relative
FLAT = 0.1
MB = 2**20


@dataclass(frozen=True)
class Work:
    """Amount of work of a step: tokens, and floating-point operations."""

    tokens: int
    flops: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=None, help="checkpoint folder; default: the default model")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS))
    add("--pairs", type=int, default=64)
    add("--chats", type=int, default=8)
    add("--max-length", type=int, default=64, help="most tokens of a text to embed")
    add("--row", type=int, default=512, help="tokens of a packed row, and of a chat at most")
    add("--budget", type=int, default=8192, help="token_budget of our steps")
    add("--mini-batches", type=int, nargs="+", default=[32], help="of sentence-transformers")
    add("--rows", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="memory: pairs")
    add("--memory-budget", type=int, default=256, help="memory: tokens of a mini-batch")
    add("--kept", type=int, default=None, help="memory: tokens of kept graphs; default: as many")
    add("--repeats", type=int, default=3)
    add("--float32", action="store_true", help="no bfloat16: losses must be the same")
    add("--peak-tflops", type=float, default=None, help="of the device, for its utilisation")
    chosen = parser.parse_args()
    _quiet()
    print(f"{machine()}\n")
    for part in chosen.only:
        PARTS[part](chosen)


def contrastive(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        trainer = _trainer(chosen, Path(name))
        batch = trainer.loader.next(1).embedding
        assert batch is not None
        sides = {OURS: ours.step(trainer, Batch(batch, []))}
        sides |= peers.sentence_transformers(
            trainer, batch, Path(name), mini_batches=chosen.mini_batches
        )
        body, _ = ours.sizes(trainer)
        lengths = [len(prompt.ids) for prompt in (*batch.queries, *batch.passages)]
        print(
            f"contrastive, {_format(trainer)}: {chosen.pairs} pairs, texts of {min(lengths)} to "
            f"{max(lengths)} tokens, {sum(lengths)} in all, token budget {chosen.budget}"
        )
        _report(sides, Work(sum(lengths), 6.0 * body * sum(lengths)), trainer, chosen)


def generative(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        trainer = _trainer(chosen, Path(name))
        samples = trainer.loader.next(1).samples
        sides = {OURS: ours.step(trainer, Batch(None, samples))}
        sides |= peers.trl(trainer, samples, Path(name), row=chosen.row)
        body, head = ours.sizes(trainer)
        tokens = sum(len(sample.ids) for sample in samples)
        trained = sum(end - start for sample in samples for start, end in sample.trained)
        print(
            f"generative, {_format(trainer)}: {chosen.chats} chats, {tokens} tokens, {trained} of "
            f"them trained, packed into rows of {chosen.row}, token budget {chosen.budget}"
        )
        _report(sides, Work(tokens, 6.0 * (body * tokens + head * trained)), trainer, chosen)


def memory(chosen: argparse.Namespace) -> None:
    budget = chosen.memory_budget
    kept = budget if chosen.kept is None else chosen.kept
    found = growths([MemoryCase(chosen.model, rows, budget, kept) for rows in chosen.rows])
    print(
        f"memory of GradCache over the state before, mini-batches of {found[0].at_once} tokens at "
        f"most, graphs of {kept} tokens kept:\n"
    )
    sizes = [one.growth / MB for one in found]
    print(
        table(
            ["pairs", "tokens", "peak (MB)", f"relative to {chosen.rows[0]} pairs"],
            [
                [rows, one.tokens, f"{size:.0f}", f"{size / sizes[0] - 1:+.1%}"]
                for rows, one, size in zip(chosen.rows, found, sizes, strict=True)
            ],
        )
    )
    spread = max(sizes) / min(sizes) - 1
    flat = "flat" if spread <= FLAT else "NOT flat"
    print(f"\nlargest relative to smallest: {spread:+.1%}, {flat}\n")


def _quiet() -> None:
    """Only the results: libraries report on loading and on data sets."""
    import datasets

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    for name in ("gritlm", "transformers", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)


PARTS = {"contrastive": contrastive, "generative": generative, "memory": memory}


def _trainer(chosen: argparse.Namespace, folder: Path) -> Trainer:
    return ours.trainer(
        folder / "ours",
        chosen.model,
        pairs=ours.pairs(chosen.pairs),
        chats=ours.chats(chosen.chats),
        length=chosen.max_length,
        row=chosen.row,
        budget=chosen.budget,
        bf16=False if chosen.float32 else None,
    )


def _report(
    sides: Mapping[str, Step], work: Work, trainer: Trainer, chosen: argparse.Namespace
) -> None:
    """The first, untimed turn measures memory, and says what the losses are."""
    losses: dict[str, float] = {}

    def noted(name: str) -> None:
        losses[name] = sides[name]()

    peaks = {name: peak_memory(lambda name=name: noted(name)) for name in sides}
    _require_agreement(losses, exact=not trainer.parts.bf16)
    taken = alternate(dict(sides), repeats=chosen.repeats, warmups=0)
    rate = {name: work.tokens / statistics.median(times) for name, times in taken.items()}
    tflops = chosen.peak_tflops or peak_tflops()
    header = ["side", "tokens a second (median)", "range", "ratio", "peak memory (MB)"]
    rows = []
    for name, times in taken.items():
        spread = f"{work.tokens / max(times):.0f}-{work.tokens / min(times):.0f}"
        ratio = f"{rate[OURS] / rate[name]:.2f}x"
        row = [name, f"{rate[name]:.0f}", spread, ratio, f"{peaks[name] / MB:.0f}"]
        used = work.flops * rate[name] / work.tokens / 1e12
        rows.append([*row, f"{used / tflops:.1%}"] if tflops else row)
    print(table([*header, "utilisation"] if tflops else header, rows))
    print(f"\nratio: how many times faster {OURS} is")
    if tflops:
        print(
            f"utilisation: 6 * (parameters without word vectors * {work.tokens} tokens + those of "
            f"the LM head * trained tokens) = {work.flops / 1e12:.2f} TFLOP a step, of "
            f"{tflops:g} TFLOP/s"
        )
    print()


def _require_agreement(losses: Mapping[str, float], *, exact: bool) -> None:
    """Say how far the losses are from ours; in float32 they must be the same."""
    own = losses[OURS]
    gaps = {name: abs(loss / own - 1) for name, loss in losses.items() if name != OURS}
    shown = ", ".join(f"{losses[name]:.5f} ({gap:.1e}) {name}" for name, gap in gaps.items())
    print(f"losses (relative difference): {own:.5f} {OURS}, {shown}\n")
    if exact and max(gaps.values()) > LARGEST_GAP:
        raise SystemExit(f"the sides do not compute the same loss; expected within {LARGEST_GAP}")


def _format(trainer: Trainer) -> str:
    return "bfloat16 by autocast" if trainer.parts.bf16 else "float32"


if __name__ == "__main__":
    main()
