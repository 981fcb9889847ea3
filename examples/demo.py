"""Demo of one set of weights: rank, search, chat, answer from cached state. Run by `make demo`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gritlm import GritLM, gritlm_instruction
from gritlm.rag import Answer, Quote, RagEngine

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
QUERY = "How do you stop a wound from bleeding?"
TOP_K = 5
WAYS = {"none": "joint", "doc": "sequence"}  # mode and fusion
REPEATS = 5
console = Console(highlight=False)


def main() -> None:
    console.print("Loading the default model ...")
    model = GritLM()
    size = model.num_parameters() / 1e6
    dtype = str(model.dtype).removeprefix("torch.")
    console.print(f"{size:.0f}M parameters in {dtype}: {model.dtype_reason}")
    rank(model)
    search(model)
    compare(model)
    chat(model)
    answer_from_store(model)


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
    passages = rows("passages")
    questions = rows("questions")
    heading(f"2. Search: {len(passages)} passages on everyday health")
    started = perf_counter()
    vectors = model.encode_document(passages)
    seconds = perf_counter() - started
    console.print(f"embedded in {seconds:.1f} s ({len(passages) / seconds:.0f} passages a second)")
    queries = model.encode([q["text"] for q in questions], instruction=gritlm_instruction(QUESTION))
    found = model.similarity(queries, vectors).topk(3)
    hits = 0
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


def answer_from_store(model: GritLM, question: str = QUERY) -> None:
    """Answer a question from the stored state of each passage, and from one fresh prompt."""
    heading("5. Answer from a store: the key/value state of embedded passages is reused")
    with TemporaryDirectory() as place, RagEngine.open(place, model) as engine:
        added = engine.add(CORPUS / "passages.jsonl")
        size = engine.store.nbytes / 1e6
        each = added.passages / added.seconds
        console.print(
            f"{added.passages} passages of {added.documents} texts in {added.seconds:.1f} s "
            f"({each:.0f} a second), {size:.0f} MB of keys and values"
        )
        asked = {
            mode: [
                engine.answer(question, mode=mode, fusion=fusion, top_k=TOP_K)
                for _ in range(REPEATS + 1)
            ]
            for mode, fusion in WAYS.items()
        }
        quote = engine.quote(question, asked["doc"][0])
    show_answer(question, asked["doc"][0], quote)
    table = new_table("mode", "tokens reused", "tokens read", "time to first token")
    for mode, answers in asked.items():
        trace = answers[0].trace  # of the warm-up, whose time does not count
        waited = median(answer.trace.milliseconds["first_token"] for answer in answers[1:])
        table.add_row(
            f"{mode} ({WAYS[mode]})",
            str(trace.tokens_reused),
            str(trace.tokens_read),
            f"{waited:.0f} ms",
        )
    console.print(f"\n{TOP_K} candidates; medians of {REPEATS}")
    console.print(table)


def show_answer(question: str, answer: Answer, quote: Quote | None) -> None:
    """Show an answer, the sentence that answers best, and the scores of all candidates."""
    console.print(f"\n[bold]{question}[/]")
    show([answer.text])
    titles = {source.id: source.title for source in answer.sources}
    if quote is not None:
        console.print(Text(f"from {titles[quote.source]}: ") + marked(quote.text, answer.text))
    if answer.trace.scores:
        table = new_table("passage read", "cosine", "log-likelihood of the question", "score")
        for each in answer.trace.scores:
            figures = (each["cosine"], each["likelihood"], each["score"])
            table.add_row(titles[each["passage"]], *(f"{figure:.3f}" for figure in figures))
        console.print()
        console.print(table)


def marked(sentence: str, answer: str) -> Text:
    """Return the sentence with the longest run of words of the answer marked."""
    words = [*re.finditer(r"\w+", sentence)]
    ours = [word[0].lower() for word in words]
    theirs = re.findall(r"\w+", answer.lower())
    run = SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match()
    if not run.size:
        return Text(sentence)
    start, end = words[run.a].start(), words[run.a + run.size - 1].end()
    middle = Text(f"*{sentence[start:end]}*", style="bold green")
    return Text(sentence[:start]) + middle + Text(sentence[end:])


def rows(name: str) -> list[dict[str, Any]]:
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
