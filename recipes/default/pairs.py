"""Embedding rows from question-answer sets, titles, commands and intents."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import nq
import t0
from rows import Row, pair, scored
from texts import Overlap, around, fingerprint, first_words, number, one_line, untokenised

WORDS = 170  # of a passage: about 256 tokens
GROUPED = 70  # words of a passage that decide whether its rows are held out
AROUND = 4  # sentences of a paragraph
POOL = 8  # utterances of an intent that serve as passages
QUERIES = 40  # utterances of an intent that serve as queries

_NO_ANSWER = ("The Human Phenotype Ontology provides", "These resources address")


def squad(folder: Path) -> Iterator[Row]:
    """Yield questions with the sentence that answers them; the next sentence is the negative.

    Only the half called test: the one called dev is made of the paragraphs of XQuAD.
    """
    place = folder / "data" / "processed"
    sentences, questions = (
        [untokenised(line) for line in _lines(place / f"{side}-test.txt")]
        for side in ("src", "tgt")
    )
    for index, (sentence, question) in enumerate(zip(sentences, questions, strict=True)):
        others = (other for other in sentences[index + 1 :] if other != sentence)
        if len(sentence.split()) >= 6:
            group = first_words(sentence, GROUPED)
            yield pair(question, [sentence], [next(others, sentences[0])], group=group)


def paragraphs(folder: Path) -> Iterator[Row]:
    """Yield the questions of :func:`squad` with the sentences around the one that answers them.

    Of a paragraph only the sentences with a question are known. There are no negatives yet: see
    negatives.py.
    """
    place = folder / "data" / "processed"
    sentences, questions = (
        [untokenised(line) for line in _lines(place / f"{side}-test.txt")]
        for side in ("src", "tgt")
    )
    different = list(dict.fromkeys(sentences))
    index = {sentence: at for at, sentence in enumerate(different)}
    for sentence, question in zip(sentences, questions, strict=True):
        # Windows that do not depend on the question: its sentence has any place in them.
        start = index[sentence] // AROUND * AROUND
        text = first_words(" ".join(different[start : start + AROUND]), WORDS)
        if len(sentence.split()) >= 6 and sentence in text:
            yield pair(question, [text], whole=[sentence], group=first_words(sentence, GROUPED))


def medquad(folder: Path) -> Iterator[Row]:
    """Yield questions with the start of their answer; negatives answer others on the topic."""
    for name, content in _unpacked(folder / "medquad.tar.gz"):
        if name.endswith(".xml"):
            yield from _medical(ElementTree.fromstring(content))


def _medical(document: ElementTree.Element) -> Iterator[Row]:
    topic = document.findtext("Focus", "")
    known: dict[str, str] = {}
    for found in document.iter("QAPair"):
        question = one_line(found.findtext("Question", ""))
        question = question.replace("What is (are)", "What is").replace(" ?", "?")
        answer = one_line(found.findtext("Answer", ""))
        if answer.lower().startswith(question.lower()):
            answer = answer[len(question) :].strip()
        # The headings that pages of GARD repeat are not part of the answer.
        answer = re.sub(r"^(What|How|Is|Are|Who|Can)\b[^.?]{5,120}\? ", "", answer)
        answer = first_words(answer.removeprefix("Key Points - "), WORDS)
        if _informs(first_words(answer, GROUPED), topic):
            known[question] = answer
    for question, answer in known.items():
        others = [other for other in known.values() if other != answer][:3]
        yield pair(question, [answer], others, group=first_words(answer, GROUPED))


def _informs(answer: str, topic: str) -> bool:
    """Return whether an answer names its topic and is not a boilerplate notice."""
    names = [word for word in re.findall(r"\w+", topic.lower()) if len(word) > 3]
    named = any(name in answer.lower() for name in names)
    return named and len(answer.split()) >= 8 and not any(n in answer for n in _NO_ANSWER)


def commands(folder: Path) -> Iterator[Row]:
    """Yield tasks with their command line; other commands of the page are negatives."""
    pages = {
        name: _tasks(content.decode("utf-8"))
        for name, content in _unpacked(folder / "tldr-pages.tar.gz")
        if name.startswith("pages/")
    }
    times = Counter(task for page in pages.values() for task in {task for task, _ in page})
    for name, page in pages.items():
        for task, command in page:
            query = task if times[task] == 1 else f"{task} with {Path(name).stem}"
            others = [other for _, other in page if other != command]
            yield pair(query, [command], others[:3])


def _tasks(page: str) -> list[tuple[str, str]]:
    found = re.findall(r"^- (.+?):?\n\n`(.+)`$", page, flags=re.MULTILINE)
    return [(_task(task), _command(command)) for task, command in found]


def _task(text: str) -> str:
    """Return a task without the brackets that mark option letters: ``[c]reate``."""
    return one_line(re.sub(r"\[(\w+)\]", r"\1", text).replace("`", ""))


def _command(text: str) -> str:
    """Return ``--directory path/to/file`` for ``{{[-C|--directory]}} {{path/to/file}}``."""
    text = re.sub(r"\{\{\[[^|\]{}]*\|([^\]{}]*)\]\}\}", r"\1", text)
    return one_line(text.replace("{{", "").replace("}}", ""))


def papers(folder: Path) -> Iterator[Row]:
    """Yield titles, or one-sentence summaries, with their abstract."""
    for split in ("train", "dev", "test"):
        for line in _lines(folder / "SciTLDR-Data" / "SciTLDR-A" / f"{split}.jsonl"):
            paper = json.loads(line)
            queries = [paper.get("title") or "", paper["target"][0]]
            query = queries[number(line) % 2] or queries[1]
            abstract = one_line(" ".join(paper["source"]))
            if abstract:
                group = first_words(abstract, GROUPED)
                yield pair(one_line(query), [first_words(abstract, WORDS)], group=group)


def wikipedia(folder: Path) -> Iterator[Row]:
    """Yield titles with their passage; the passage with the most similar title is the negative."""
    path = folder / "reproduce" / "dataset" / "2wikimultihopqa_corpus.json"
    passages = json.loads(path.read_text(encoding="utf-8"))
    titles = [one_line(passage["title"]) for passage in passages]
    bodies = [first_words(passage["text"], WORDS) for passage in passages]
    overlap = Overlap(titles)
    for index, (title, body) in enumerate(zip(titles, bodies, strict=True)):
        near = overlap.nearest(title, count=3, without=[index])
        negatives = [bodies[i] for i in near if titles[i] != title][:1]
        if len(body.split()) >= 8:
            yield pair(title, [body], negatives, group=first_words(body, GROUPED))


def natural_questions(folder: Path) -> Iterator[Row]:
    """Yield questions with their gold passage; passages with similar words are negatives."""
    for entry in nq.with_distractors(nq.training_rows(folder), count=3):
        positive, *negatives = (
            f"{title} {first_words(text, WORDS)}" for title, text in entry.passages
        )
        title, text = entry.passages[0]
        group = f"{title} {first_words(text, GROUPED)}"
        yield pair(entry.question, [positive], negatives, whole=[text], group=group)


def similar_sentences(folder: Path) -> Iterator[Row]:
    """Yield pairs of sentences with the same meaning: rated 4 or 5 of 5."""
    for one, other, score in csv.reader(_lines(folder / "data" / "stsb-en-train.csv")):
        if float(score) >= 4 and fingerprint(one) != fingerprint(other):
            yield pair(one_line(one), [one_line(other)])


def scored_sentences(folder: Path) -> Iterator[Row]:
    """Yield pairs of sentences with their human similarity rating, 0 to 5."""
    for one, other, score in csv.reader(_lines(folder / "data" / "stsb-en-train.csv")):
        yield scored(one_line(one), one_line(other), float(score))


def paraphrases(folder: Path) -> Iterator[Row]:
    for one, other in t0.paraphrases(folder):
        yield pair(one, [other])


def reading(folder: Path) -> Iterator[Row]:
    """Yield questions with the words around the answer in their paragraph."""
    for question, text, answer in t0.reading(folder):
        group = around(text, answer, GROUPED)
        yield pair(question, [around(text, answer, WORDS)], whole=[text], group=group)


def banking(folder: Path) -> Iterator[Row]:
    lines = csv.DictReader(_lines(folder / "banking_data" / "train.csv"))
    yield from _intents([(one_line(line["text"]), line["category"]) for line in lines])


def clinc(folder: Path) -> Iterator[Row]:
    whole = json.loads((folder / "data" / "data_full.json").read_text(encoding="utf-8"))
    yield from _intents([(one_line(text), intent) for text, intent in whole["train"]])


def _intents(examples: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """Yield utterances with others of the same intent; similar ones of other intents are negatives.

    A few utterances of each intent are the passages of all its rows, so that a batch shows which
    of its passages are right answers to another query too.
    """
    by_intent: dict[str, list[str]] = defaultdict(list)
    for text, intent in sorted(set(examples), key=lambda example: number(example[0])):
        by_intent[intent].append(text)
    pool = [(text, intent) for intent in by_intent for text in by_intent[intent][:POOL]]
    overlap = Overlap([text for text, _ in pool])
    for intent, texts in by_intent.items():
        for query in texts[POOL : POOL + QUERIES]:
            near = overlap.nearest(query, count=4 * POOL)
            others = [pool[i][0] for i in near if pool[i][1] != intent]
            yield pair(query, texts[:POOL], others[:2])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of an archive, sorted by name."""
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()
