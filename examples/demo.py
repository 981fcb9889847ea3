"""What one set of weights can do: rank, search, chat, answer from what it has read. `make demo`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from rich import box
from rich.console import Console
from rich.table import Table

from gritlm import GritLM, KVBlock, gritlm_instruction
from gritlm.lm.chat import chat_ids
from gritlm.lm.generator import TextStream, complete
from gritlm.lm.sampling import make_sampler
from gritlm.lm.tokens import SegmentTokenizer

CORPUS = Path(__file__).parent / "corpus"
TITLE = "Given a scientific paper title, retrieve the paper's abstract"
QUESTION = "Given a question, retrieve the passage that answers it"
TOPIC = ("earthquakes", "floods", "hurricanes", "tornadoes", "tsunamis", "volcanoes")
QUERY = "What is a tsunami?"
CLOSING = "\n\nAnswer the prior query while optionally using the context prior to it"
REPEATS = 5
NOT_TRAINED = (
    "This base has only ever learned to write: it is [bold]not yet trained[/] to embed or to read "
    "a cache. What follows shows how it works and what it costs, not how well it can get."
)
console = Console(highlight=False)


def main() -> None:
    console.print("Loading the default model ...")
    model = GritLM()
    size, dtype = model.num_parameters() / 1e6, str(model.dtype).removeprefix("torch.")
    console.print(f"{size:.0f}M parameters in {dtype}: {model.dtype_reason}")
    if not model.settings.trained_to_embed:
        console.print(NOT_TRAINED)
        logging.getLogger("gritlm").setLevel(logging.ERROR)  # it would say so once more
    rank(model)
    search(model)
    chat(model)
    answer_from_cache(model)


def rank(model: GritLM) -> None:
    """Two titles against two abstracts: the example of the GritLM paper."""
    heading("1. Rank: cosine of each title with each abstract")
    papers = rows("papers")
    titles, abstracts = ([paper[part] for paper in papers] for part in ("title", "text"))
    queries = model.encode(titles, instruction=gritlm_instruction(TITLE))
    documents = model.encode(abstracts, instruction=gritlm_instruction(""))
    cosines = model.similarity(queries, documents).tolist()
    table = new_table("", *(f"abstract of {paper['id']}" for paper in papers))
    for title, line in zip(titles, cosines, strict=True):
        table.add_row(title, *(f"{cosine:.3f}" for cosine in line))
    console.print(table)


def search(model: GritLM) -> None:
    """Questions against a small corpus of real passages."""
    passages, questions = rows("passages"), rows("questions")
    heading(f"2. Search: {len(passages)} passages on everyday health")
    started = perf_counter()
    vectors = model.encode_document(passages)
    seconds = perf_counter() - started
    console.print(f"embedded in {seconds:.1f} s ({len(passages) / seconds:.0f} passages a second)")
    queries = model.encode([q["text"] for q in questions], instruction=gritlm_instruction(QUESTION))
    found, hits = model.similarity(queries, vectors).topk(3), 0
    for number, question in enumerate(questions):
        best = [passages[i] for i in found.indices[number]]
        hits += question["passage"] in [passage["id"] for passage in best]
        if number < 3:
            console.print(f"\n[bold]{question['text']}[/]")
            for score, passage in zip(found.values[number], best, strict=True):
                mark = "[green]*[/]" if passage["id"] == question["passage"] else " "
                console.print(f" {mark} {score:.3f}  {passage['title']}: {passage['text'][:48]}...")
    console.print(f"\n* answers it; so does one of the three best for {hits} of {len(questions)}")


def chat(model: GritLM) -> None:
    heading("3. Chat: the same weights write, as a stream")
    request = "Write two sentences about why people like the sea."
    console.print(f"[bold]{request}[/]")
    show(model.chat(request, stream=True, max_new_tokens=80))


def answer_from_cache(model: GritLM) -> None:
    """One question about a text, with and without the state that embedding it left behind."""
    heading("4. Answer from what was read: embedding a text leaves keys and values")
    document = "\n\n".join(p["text"] for p in rows("passages") if p["id"] in TOPIC)
    _, [block] = model.encode(
        [document], instruction=gritlm_instruction(""), get_cache=True, max_length=2048
    )
    segments, template = SegmentTokenizer(model.tokenizer), model.settings.template
    ids = chat_ids(segments, QUERY + CLOSING, template=template, start=False)
    whole = block.token_ids.tolist() + ids
    without, cached = [], []
    for _ in range(REPEATS + 1):  # the first pair warms up and does not count
        without.append(first_token_seconds(model, whole, None))
        cached.append(first_token_seconds(model, ids, block))
    table = new_table("", "tokens read", "time to first token")
    table.add_row("without cache", str(len(whole)), f"{1000 * median(without[1:]):.0f} ms")
    table.add_row("with cache", str(len(ids)), f"{1000 * median(cached[1:]):.0f} ms")
    console.print(f"{block}; medians of {REPEATS}")
    console.print(table)
    console.print(f"[bold]{QUERY}[/] without cache:")
    show(TextStream(model.tokenizer).pieces(tokens(model, whole, None, limit=40)))
    console.print(f"[bold]{QUERY}[/] with cache:")
    show(model.chat(QUERY + CLOSING, kv=block, stream=True, max_new_tokens=40))


def first_token_seconds(model: GritLM, ids: list[int], kv: KVBlock | None) -> float:
    started = perf_counter()
    next(tokens(model, ids, kv, limit=1), None)
    return perf_counter() - started


def tokens(model: GritLM, ids: list[int], kv: KVBlock | None, *, limit: int) -> Iterator[int]:
    greedy, ends = make_sampler(temperature=0.0), model.end_ids
    return complete(model.lm, ids, kv=kv, sampler=greedy, max_new_tokens=limit, end_ids=ends)


def rows(name: str) -> list[dict[str, str]]:
    text = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def new_table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE if console.is_terminal else None)


def heading(text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}", align="left")


def show(pieces: Iterable[str]) -> None:
    for piece in pieces:
        console.print(piece, end="", markup=False, soft_wrap=True)
    console.print()


if __name__ == "__main__":
    main()
