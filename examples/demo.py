"""What one set of weights can do: rank, search, chat, answer from what it has read. `make demo`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from gritlm import GritLM, KVBlock, gritlm_instruction

CORPUS = Path(__file__).parent / "corpus"
TITLE = "Given a scientific paper title, retrieve the paper's abstract"
QUESTION = "Given a question, retrieve the passage that answers it"
SIMILAR = "Retrieve semantically similar text"
SENTENCE = "You lose up to 100 hairs from your scalp every day."
OTHERS = {
    "It is normal that dozens of hairs fall out daily.": "says the same",
    "Protect your scalp from the sun every day.": "shares its words",
    "The train to the coast leaves at nine.": "has nothing to do with it",
}
# The passage that answers stands last, next to the question.
TOPIC = ("earthquakes", "floods", "hurricanes", "tornadoes", "volcanoes", "tsunamis")
QUERY = "What is a tsunami?"
CLOSING = "\n\nAnswer the prior query while optionally using the context prior to it"
REPEATS = 5
console = Console(highlight=False)


def main() -> None:
    console.print("Loading the default model ...")
    model = GritLM()
    size, dtype = model.num_parameters() / 1e6, str(model.dtype).removeprefix("torch.")
    console.print(f"{size:.0f}M parameters in {dtype}: {model.dtype_reason}")
    rank(model)
    search(model)
    compare(model)
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


def compare(model: GritLM) -> None:
    """A paraphrase against sentences that only look like it."""
    heading("3. Compare: what means the same")
    console.print(f"[bold]{SENTENCE}[/]")
    instruction = gritlm_instruction(SIMILAR)
    one, others = (model.encode(t, instruction=instruction) for t in (SENTENCE, [*OTHERS]))
    cosines = model.similarity(one, others)[0].tolist()
    for cosine, text in sorted(zip(cosines, OTHERS, strict=True), reverse=True):
        console.print(f"   {cosine:.3f}  {text} ({OTHERS[text]})")


def chat(model: GritLM) -> None:
    heading("4. Chat: the same weights write, as a stream")
    request = "Write two sentences about why people like the sea."
    console.print(f"[bold]{request}[/]")
    show(model.chat(request, stream=True, max_new_tokens=80))


def answer_from_cache(model: GritLM) -> None:
    """One question about some passages, with and without the state that embedding them left."""
    heading("5. Answer from what was read: embedding a text leaves keys and values")
    known = {passage["id"]: passage["text"] for passage in rows("passages")}
    _, blocks = model.encode(
        [known[name] for name in TOPIC], instruction=gritlm_instruction(""), get_cache=True
    )
    block = KVBlock.join(blocks)
    ids = model.chat_ids(QUERY + CLOSING, start=False)
    whole = block.token_ids.tolist() + ids
    without, cached = [], []
    for _ in range(REPEATS + 1):  # the first pair warms up and does not count
        without.append(first_token_seconds(model, whole, None))
        cached.append(first_token_seconds(model, ids, block))
    table = new_table("", "tokens read", "time to first token")
    table.add_row("without cache", str(len(whole)), f"{1000 * median(without[1:]):.0f} ms")
    table.add_row("with cache", str(len(ids)), f"{1000 * median(cached[1:]):.0f} ms")
    console.print(f"{len(blocks)} passages: {block}; medians of {REPEATS}")
    console.print(table)
    console.print(f"[bold]{QUERY}[/] without cache:")
    answer = continued(model, whole, None, limit=40)[len(whole) :]
    show([model.tokenizer.decode(answer, skip_special_tokens=True)])
    console.print(f"[bold]{QUERY}[/] with cache:")
    show(model.chat(QUERY + CLOSING, kv=block, stream=True, max_new_tokens=40))


def first_token_seconds(model: GritLM, ids: list[int], kv: KVBlock | None) -> float:
    started = perf_counter()
    continued(model, ids, kv, limit=1)
    return perf_counter() - started


def continued(model: GritLM, ids: list[int], kv: KVBlock | None, *, limit: int) -> list[int]:
    """``ids`` and the likeliest tokens after them."""
    ids_1L = torch.tensor([ids], device=model.device)
    return model.generate(ids_1L, kv=kv, max_new_tokens=limit, do_sample=False)[0].tolist()


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
