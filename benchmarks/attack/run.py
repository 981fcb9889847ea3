"""Effect of a hostile client on other clients: memory, response times, statuses.

    python -m benchmarks.attack.run [--model FOLDER] [--only NAME,NAME] [--list]
                                [--fuzz 5000] [--seed 0] [--fuzz-from 0]

Every attack gets a server of its own, on loopback, with a key and a store in a temporary folder.
While it runs other clients ask for ``/health/live``, a small embedding and a chat, and the memory
of the server is measured. Without a model a tiny random one is made. ``--fuzz 100000`` is the full
run of fuzzed requests. Exits with 1 when a bound is broken; the bounds of each attack are below.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.attack import fuzz, requests
from benchmarks.attack.requests import CLOSED, KEY, Result, ask
from benchmarks.attack.watch import Seen, Watch, median, most, resident
from benchmarks.common import machine, table
from benchmarks.serving.server import Server, serving
from tests import tiny

LIMIT_S = 150.0  # for one attack
SETTLES_S = 2.0
POSITIONS = 1024  # of the tiny model
REFUSED = frozenset({400, 401, 404, 405, 408, 411, 413, 415, 422, 429, 431})
FUZZ = "fuzz"
FUZZED = ("--max-model-len", "704", "--served-model-name", "gritlm")


@dataclass(frozen=True)
class Attack:
    """An attack and its bounds.

    Attributes:
        run: in another process: the server's address -> answers and broken promises.
        allowed: statuses that may come, apart from refusals.
        peak_mb, kept_mb: growth of resident memory during and after it.
        answer_s: the slowest answer; None where the work itself takes long.
        live_s, gap_s, embed_s: the slowest of what other clients wait for.
    """

    run: Callable[[str], Result]
    allowed: frozenset[int] = frozenset()
    peak_mb: float = 300.0
    kept_mb: float = 150.0
    answer_s: float | None = 10.0
    live_s: float = 1.0
    gap_s: float = 2.0
    embed_s: float = 4.0


WORKS = frozenset({200})
LEAVES = frozenset({CLOSED})

ATTACKS: dict[str, Attack] = {
    "tiny-chunks-1": Attack(partial(requests.tiny_chunks, connections=1), LEAVES),
    "tiny-chunks-4": Attack(partial(requests.tiny_chunks, connections=4), LEAVES),
    "bodies-without-key": Attack(requests.bodies_without_key, LEAVES | {503}),
    "filter-256x1000": Attack(partial(requests.wide_filter, names=256, values=1000, known=False)),
    "filter-78kb": Attack(partial(requests.wide_filter, names=10, values=1000, known=True), WORKS),
    "giant-embedding": Attack(partial(requests.embedding, texts=2000), WORKS, answer_s=None),
    "largest-embedding": Attack(partial(requests.embedding, texts=320), WORKS, answer_s=None),
    "giant-documents": Attack(partial(requests.documents, each=36), WORKS | {-1}, answer_s=None),
    "largest-documents": Attack(partial(requests.documents, each=7), WORKS | {-1}, answer_s=None),
    "long-question": Attack(requests.long_question),
    "large-metadata": Attack(requests.large_metadata, WORKS, answer_s=60.0),
    "unusable-rows": Attack(requests.unusable_rows, WORKS),
    "expanding-pdf": Attack(requests.expanding_pdf, WORKS),
    "unclosed-html": Attack(requests.unclosed_html, WORKS, answer_s=20.0),
    "latin-1": Attack(requests.latin_1, WORKS | {-1}, answer_s=None),
    "odd-ids": Attack(requests.odd_ids, WORKS),
    "deep-json": Attack(requests.deep_json),
    "slow-clients": Attack(requests.slow_clients),
    "hang-ups": Attack(requests.hang_ups),
}


@dataclass
class Outcome:
    """Outcome of an attack.

    Attributes:
        before, after: resident bytes of the server.
        broken: bounds that did not hold.
    """

    name: str
    result: Result
    seen: Seen
    before: int
    after: int
    broken: list[str] = field(default_factory=list)


def main() -> None:
    chosen = _arguments()
    names = chosen.only.split(",") if chosen.only else [*ATTACKS, FUZZ]
    if unknown := set(names) - ATTACKS.keys() - {FUZZ}:
        sys.exit(f"--only: unknown attacks {', '.join(unknown)}; known: {', '.join(ATTACKS)}, fuzz")
    print(machine(), flush=True)
    with _model(chosen.model) as model:
        outcomes = [_attacked(name, model) for name in names if name != FUZZ]
        if outcomes:
            print(table(HEADER, [_row(each) for each in outcomes]))
        broken = [f"{each.name}: {why}" for each in outcomes for why in each.broken]
        if FUZZ in names and chosen.fuzz:
            broken += _fuzzed(model, chosen)
    print(*(broken or ["all bounds hold"]), sep="\n")
    sys.exit(1 if broken else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=None, help="left out: a tiny random one")
    parser.add_argument("--only", default="", help="attacks, by names with commas; fuzz is one")
    parser.add_argument("--fuzz", type=int, default=5000, help="fuzzed requests")
    parser.add_argument("--fuzz-from", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the names and leave")
    chosen = parser.parse_args()
    if chosen.list:
        print(*ATTACKS, FUZZ, sep="\n")
        sys.exit(0)
    return chosen


@contextmanager
def _model(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(tiny.folder(Path(folder) / "tiny", max_position_embeddings=POSITIONS))


@contextmanager
def _served(model: str, *more: str) -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving([model, "--store", f"{folder}/store", "--api-key", KEY, *more]) as server,
    ):
        yield server


def _attacked(name: str, model: str) -> Outcome:
    attack = ATTACKS[name]
    outcome = None
    try:
        with _served(model) as server:
            outcome = asyncio.run(_observed(name, attack, server))
            text = server.log.read_text(errors="replace")
            if "Traceback" in text:
                outcome.broken.append(f"a traceback in the log: {_last_line(text)}")
    except RuntimeError as error:  # it does not listen, or ended other than well
        outcome = outcome or Outcome(name, Result(), Seen(), 0, 0)
        outcome.broken.append(str(error)[:300])
    print(f"{name}: {'; '.join(outcome.broken) or 'holds'}", flush=True)
    return outcome


async def _observed(name: str, attack: Attack, server: Server) -> Outcome:
    watch = Watch(server, KEY)
    await watch.client.post("/v1/embeddings", {"input": "warm"})
    await watch.client.stream("warm", tokens=8)
    before = resident(server.usage)
    watch.start()
    await asyncio.sleep(SETTLES_S)
    result = await asyncio.to_thread(_in_a_process, attack.run, server.url)
    await asyncio.sleep(SETTLES_S)
    seen = await watch.end()
    outcome = Outcome(name, result, seen, before, resident(server.usage))
    outcome.broken += [*result.problems, *_broken(attack, outcome)]
    well = await asyncio.to_thread(ask, server.url, "POST", requests.EMBEDDINGS, {"input": "well?"})
    if well.status != 200:
        outcome.broken.append(f"afterwards a small embedding gets {well.status} {well.text[:100]}")
    return outcome


def _in_a_process(run: Callable[[str], Result], url: str) -> Result:
    """The attack must not slow down those who observe it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(run, url, sender))
    process.start()
    try:
        if receiver.poll(LIMIT_S):
            return receiver.recv()
        return Result(problems=[f"not answered in {LIMIT_S:.0f} s"])
    except EOFError:
        return Result(problems=["the attack itself failed; see above"])
    finally:
        process.kill()
        process.join()


def _run(run: Callable[[str], Result], url: str, sender: Any) -> None:
    sender.send(run(url))


def _broken(attack: Attack, outcome: Outcome) -> list[str]:
    seen = outcome.seen
    replies = outcome.result.replies
    slowest = most([reply.seconds for reply in replies])
    peak = (max(seen.memory, default=0) - outcome.before) / 1e6
    kept = (outcome.after - outcome.before) / 1e6
    bounds: list[tuple[str, float, float | None, str]] = [
        ("memory grew by", peak, attack.peak_mb, "MB"),
        ("memory kept", kept, attack.kept_mb, "MB"),
        ("an answer took", slowest, attack.answer_s, "s"),
        ("/health/live took", most(seen.live), attack.live_s, "s"),
        ("a chat stood still for", most(seen.gaps), attack.gap_s, "s"),
        ("a small embedding took", most(seen.embed), attack.embed_s, "s"),
    ]
    broken = [
        f"{what} {value:.1f} {unit} (bound {bound:g})"
        for what, value, bound, unit in bounds
        if bound is not None and value > bound
    ]
    odd = {reply.status for reply in replies} - attack.allowed - REFUSED
    broken += [f"status {status}" for status in sorted(odd)]
    return broken + [f"another client: {error}" for error in sorted(set(seen.refused))[:3]]


HEADER = (
    "attack",
    "statuses",
    "slowest answer",
    "RSS before / peak / after (MB)",
    "live p50 / max (ms)",
    "longest gap (ms)",
    "embedding p50 / max (ms)",
    "holds",
)


def _row(outcome: Outcome) -> list[str]:
    seen = outcome.seen
    replies = outcome.result.replies
    statuses = Counter(reply.status for reply in replies)
    memory = (outcome.before, max(seen.memory, default=0), outcome.after)
    return [
        outcome.name,
        ", ".join(f"{_status(s)} x{n}" for s, n in sorted(statuses.items())) or "-",
        f"{most([reply.seconds for reply in replies]):.2f} s" if replies else "-",
        " / ".join(f"{each / 1e6:.0f}" for each in memory),
        f"{1000 * median(seen.live):.0f} / {1000 * most(seen.live):.0f}",
        f"{1000 * most(seen.gaps):.0f}",
        f"{1000 * median(seen.embed):.0f} / {1000 * most(seen.embed):.0f}",
        "yes" if not outcome.broken else "**no**",
    ]


def _status(status: int) -> str:
    return {CLOSED: "closed", -1: "none in time"}.get(status, str(status))


def _last_line(text: str) -> str:
    """The last line of the first traceback."""
    lines = text[text.index("Traceback") :].splitlines()
    return next((line for line in lines[1:] if line and not line.startswith(" ")), "")[:200]


def _fuzzed(model: str, chosen: argparse.Namespace) -> list[str]:
    with _served(model, *FUZZED) as server:
        began = time.perf_counter()
        found = fuzz.run(server, KEY, count=chosen.fuzz, first=chosen.fuzz_from, seed=chosen.seed)
        seconds = time.perf_counter() - began
        log = server.log.read_text(errors="replace")
    statuses = ", ".join(f"{_status(s)} x{n:,}" for s, n in sorted(found.statuses.items()))
    print(
        f"fuzz: {found.statuses.total():,} requests over {found.routes} routes in {seconds:.0f} s "
        f"(seed {chosen.seed}): {statuses}; RSS {found.early / 1e6:.0f} MB after a fifth, "
        f"{found.late / 1e6:.0f} MB at the end"
    )
    broken = [f"fuzz: {why}" for why in found.broken]
    if "Traceback" in log:
        broken.append(f"fuzz: {log.count('Traceback')} tracebacks, the first: {_last_line(log)}")
    return broken


if __name__ == "__main__":
    main()
