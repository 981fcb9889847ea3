"""Crash test of the store: acknowledged data survives kills, and damaged data is never returned.

    python -m benchmarks.attack.crash --kills 300 --flips 3000 --seed 0

A tiny random model, so that each try is cheap. Kills: a child process adds, replaces, deletes and
compacts, and is ended by SIGKILL, by SIGTERM or by a disk that takes no more; another child then
holds every acknowledged document against its text, its vector and its answer from disk. Flips: a
bit in any file of a workspace; opening, listing, searching and answering then give the same as
before, less where damage is reported, or an error of one line; `verify` finds what is silent.
Exit code 1: something was wrong. Each try has its own seed: --seed 17 --kills 1 repeats the 18th.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tests import tiny

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import GritLMError
from gritlm.rag import workspace
from gritlm.rag.engine import RagEngine
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.options import AnswerOptions
from gritlm.rag.retrieve import Search

QUESTION = "What colour is the ball?"
LIMIT_S = 60.0  # of one child
ENDS = ("SIGKILL", "SIGTERM", "full disk")


def text_of(name: str, version: int) -> str:
    """The text of a document; another version is another text."""
    return f"Document {name} in version {version} says that Ann has {version} red balls."


def changes(place: Path, log: Path, model: GritLM, seed: int, *, full: bool) -> None:
    """Random changes, each announced before and acknowledged after, until the process ends."""
    dice = random.Random(seed)
    if full:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = max((path.stat().st_size for path in place.rglob("*") if path.is_file()), default=0)
        limit = size + dice.randrange(1, 60_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with log.open("ab", buffering=0) as file, RagEngine.open(place, model) as engine:
        for step in range(10_000):
            names = [f"d{dice.randrange(30)}" for _ in range(dice.randrange(1, 4))]
            verb = dice.choice(["add"] * 4 + ["delete", "compact", "gc"])
            version = seed * 10_000 + step
            line = {"verb": verb, "names": names, "version": version}
            file.write(json.dumps(line | {"done": False}).encode() + b"\n")
            try:
                change(engine, verb, names, version)
            except StoreFullError:
                return
            file.write(json.dumps(line | {"done": True}).encode() + b"\n")


def change(engine: RagEngine, verb: str, names: list[str], version: int) -> None:
    if verb == "add":
        engine.add([{"id": name, "text": text_of(name, version)} for name in names])
    elif verb == "delete":
        engine.delete(names)
    elif verb == "compact":
        engine.index.optimise()
    else:
        engine.store.gc()


def expected(log: Path) -> dict[str, set[int | None]]:
    """For each document the versions that may be there; None: it may be missing."""
    there: dict[str, set[int | None]] = {}
    begun = None
    for line in map(json.loads, log.read_bytes().rpartition(b"\n")[0].splitlines()):
        begun = None if line["done"] else line
        if line["done"] and line["verb"] in ("add", "delete"):
            version = line["version"] if line["verb"] == "add" else None
            there |= {name: {version} for name in line["names"]}
    if begun is not None and begun["verb"] in ("add", "delete"):
        version = begun["version"] if begun["verb"] == "add" else None
        for name in begun["names"]:
            there[name] = there.get(name, {None}) | {version}
    return there


def check(place: Path, log: Path, model: GritLM) -> list[str]:
    """Return the problems of a workspace, as found by the next process."""
    wrong = []
    with RagEngine.open(place, model) as engine:
        wrong += [f"block: {damage}" for damage in engine.store.verify()]
        wrong += [f"table: {line}" for line in workspace.examine(place).problems]
        found = {each.document_id: each for each in engine.index.passages()}
        for name, versions in expected(log).items():
            texts = {None if v is None else text_of(name, v) for v in versions}
            if (found[name].text if name in found else None) not in texts:
                wrong.append(f"{name} is not one of its acknowledged versions")
        wrong += check_vectors(engine, model, [each.text for each in found.values()])
        if found:
            wrong += check_answers(engine)
    settle(log, {name: passage.text for name, passage in found.items()})
    return wrong


def settle(log: Path, found: dict[str, str]) -> None:
    """Go on from what is there: the change that was cut short is decided."""
    lines = [
        {"verb": "add", "names": [name], "version": int(text.split("version ")[1].split()[0])}
        for name, text in found.items()
    ]
    log.write_text("".join(json.dumps(line | {"done": True}) + "\n" for line in lines))


def check_vectors(engine: RagEngine, model: GritLM, texts: list[str]) -> list[str]:
    wrong = []
    for text in texts:
        vector_D = model.encode([text], instruction=gritlm_instruction())[0]
        (hit,) = engine.index.search(np.asarray(vector_D), top_k=1)
        if hit.passage.text != text or hit.score < 1 - 1e-5:
            wrong.append(f"the vector of {text!r} finds {hit.passage.text!r} by {hit.score}")
    return wrong


def check_answers(engine: RagEngine) -> list[str]:
    """Answers from blocks on the disk against answers from blocks that are computed now."""
    hits = engine.find(QUESTION, Search(top_k=2))
    stored = engine.prepare(QUESTION, AnswerOptions(fusion="joint"), hits=hits).prompt.logits_V
    keys = engine._assembler.passage_ids([hit.passage.embedded for hit in hits])
    engine.store.delete([engine.store.key(ids, causal=True) for ids in keys])
    fresh = engine.prepare(QUESTION, AnswerOptions(fusion="joint"), hits=hits).prompt.logits_V
    apart = float((stored - fresh).abs().max())
    return [f"an answer from disk is {apart} off"] if apart > 1e-3 else []


def in_child(run: Callable[[], object], *, after_s: float = LIMIT_S, end: int = signal.SIGKILL):
    """Run in a forked child, ended after some seconds -> its result, or None if it has none."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            os.write(write, json.dumps(run()).encode()[:60_000])
        except BaseException as error:
            os.write(write, json.dumps([f"{type(error).__name__}: {error}"]).encode()[:60_000])
        os._exit(0)
    os.close(write)
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.005)
    else:
        if time.monotonic() >= deadline:
            os.kill(child, end)
            os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def kills(count: int, seed: int, model: GritLM, place: Path) -> Counter[str]:
    """Workspaces after kills; a fresh one every ten."""
    results: Counter[str] = Counter()
    for number in range(seed, seed + count):
        dice = random.Random(number)
        work = place / f"kills-{number // 10}"
        work.mkdir(exist_ok=True)
        log = work / "log"
        log.touch()
        end = ENDS[number % 3]
        sent = signal.SIGTERM if end == "SIGTERM" else signal.SIGKILL
        in_child(
            lambda n=number: changes(work / "store", log, model, n, full=ENDS[n % 3] == ENDS[2]),  # noqa: B023
            after_s=dice.uniform(0.3, 2.0),
            end=sent,
        )
        wrong = in_child(lambda: check(work / "store", log, model))  # noqa: B023
        wrong = ["the check itself ended"] if wrong is None else wrong
        results[f"{end}, {'wrong' if wrong else 'right'}"] += 1
        for line in wrong:
            print(f"kill {number} ({end}): {line}", flush=True)
    return results


def look(place: Path, model: GritLM) -> tuple[list[str], bool]:
    """All that a user sees of a workspace, and whether damage was reported."""
    with RagEngine.open(place, model, read_only=True) as engine:
        shown = [str(each) for each in engine.documents()]
        for hybrid in (False, True):
            found = engine.find(QUESTION, Search(top_k=5, hybrid=hybrid))
            shown += [f"{hybrid} {hit.passage} {hit.score:.4f}" for hit in found]
        answer = engine.answer(QUESTION, top_k=2, max_new_tokens=4)
        shown.append(f"{answer.text} {[source.text for source in answer.sources]}")
        return shown, bool(engine.index.damages or engine.store.damages)


def flips(count: int, seed: int, model: GritLM, place: Path) -> Counter[str]:
    """Flip one random bit of a random file at a time, and count the effects."""
    whole = place / "whole"
    with RagEngine.open(whole, model) as engine:
        for start in (0, 6):
            rows = [{"id": f"d{n}", "text": text_of(f"d{n}", n)} for n in range(start, start + 6)]
            engine.add(rows)
        engine.delete("d3")
        engine.index.optimise()
        engine.delete("d4")
    right, _ = look(whole, model)
    texts = {text_of(f"d{n}", n) for n in range(12)} - {text_of("d3", 3), text_of("d4", 4)}
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    results: Counter[str] = Counter()
    for number in range(seed, seed + count):
        dice = random.Random(number)
        copy = place / "copy"
        shutil.copytree(whole, copy)
        target = copy / dice.choice(files).relative_to(whole)
        content = bytearray(target.read_bytes())
        if content:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            target.write_bytes(content)
        result = outcome(copy, model, right, texts)
        results[f"{target.relative_to(copy).parts[0]}, {result}"] += 1
        if result.startswith("wrong"):
            print(f"flip {number} {target.relative_to(copy)}: {result}", flush=True)
        shutil.rmtree(copy)
    return results


def outcome(place: Path, model: GritLM, right: list[str], texts: set[str]) -> str:
    try:
        shown, reported = look(place, model)
        if shown == right:
            return "right"
        with RagEngine.open(place, model, read_only=True) as engine:
            others = {each.text for each in engine.index.passages()} - texts
        if others:
            return f"wrong: shows {others}"
        if reported:
            return "reported"
        return "found by verify" if workspace.examine(place).problems else "wrong: silent"
    except GritLMError as error:
        return "error" if "\n" not in str(error) else f"wrong: {str(error)[:80]!r}"
    except Exception as error:  # a traceback for the user
        return f"wrong: {type(error).__name__}: {str(error)[:80]!r}"


def run(*, kill_count: int, flip_count: int, seed: int) -> Counter[str]:
    """Do both and return how often each came out; "wrong" is a violation."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gritlm-crash-") as name:
        place = Path(name)
        made = tiny.folder(place / "model", max_position_embeddings=1024)
        model = GritLM(made, dtype="float32", device="cpu")
        results = kills(kill_count, seed, model, place)  # first: LanceDB's threads survive no fork
        results += flips(flip_count, seed, model, place) if flip_count else Counter()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    results = run(kill_count=options.kills, flip_count=options.flips, seed=options.seed)
    for name, count in sorted(results.items()):
        print(f"{count:6d}  {name}")
    print(f"{time.monotonic() - started:.0f} seconds")
    sys.exit(any("wrong" in name for name in results))


if __name__ == "__main__":
    main()
