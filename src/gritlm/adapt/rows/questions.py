"""Questions about passages: written on sentences or topics, made of key terms, or claims."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.config import AdaptConfig, QuestionKind
from gritlm.adapt.rows.key_terms import KeyTerms
from gritlm.adapt.rows.sentences import in_context, statements
from gritlm.adapt.rows.writers import OPENINGS, QuestionRequest, QuestionWriter
from gritlm.adapt.run_folder import MadeRows, Row, RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.evaluation.rag.prompts import form_for
from gritlm.train.data.collate import key

FILE = "questions.jsonl"
REPEATED = "repeated"
_PASSAGES = 16  # of a batch
_BEGIN_WORDS = 80  # of a passage, which a question on its topic is written on
_FEWEST_WORDS = 3
_LONG_WORD = 5  # letters
_ANSWER_TOKENS = 24
_ABOUT_THE_TEXT = re.compile(
    r"\b(?:the|this|given|above) (?:text|passage|sentence|statement|article|paragraph|author)\b|"
    r"\bof the following\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AskedSentence:
    """A sentence of a passage that a question is written on."""

    passage: CollectedPassage
    sentence: str

    @property
    def text(self) -> str:
        """The text that the writer reads: the sentence in its context, with its title if needed."""
        shown = in_context(self.sentence, self.passage.text)
        title = self.passage.title
        # With the title in front, small models ask about the title alone.
        named = not title or _content_words(title) & _content_words(shown)
        return shown if named else f"{title}. {shown}"


class QuestionMaker:
    """Makes the questions of passages.

    Args:
        config: settings of the run.
        model: the model that is adapted, which quotes the answers.
        writer: writer of factual and topic questions.
        passages: all passages of the collection.
    """

    def __init__(
        self,
        config: AdaptConfig,
        model: StartingModel,
        writer: QuestionWriter,
        passages: Sequence[CollectedPassage],
    ) -> None:
        self._config = config
        self._model = model
        self._writer = writer
        self._by_id = {passage.id: passage for passage in passages}
        self._terms = KeyTerms([passage.embedded for passage in passages])

    def make(self, folder: RunFolder, *, progress: bool | None = None) -> MadeRows:
        """Return the questions of all passages, and counts of those that are not used.

        Args:
            folder: folder of the run, which keeps finished batches.
            progress: show a progress bar; None: on a terminal.
        """
        made = folder.in_batches(
            FILE, list(self._by_id), self._of_batch, size=_PASSAGES, progress=progress
        )
        return distinct(made)

    def _of_batch(self, names: Sequence[str]) -> MadeRows:
        passages = [self._by_id[name] for name in names]
        made = MadeRows()
        if "factual" in self._config.kinds:
            self._ask(passages, made)
        if "topic" in self._config.kinds:
            self._ask_about_topics(passages, made)
        for passage in passages:
            if "keyword" in self._config.kinds:
                self._add_keywords(passage, made)
            if "claim" in self._config.kinds:
                self._add_claim(passage, made)
        return made

    def _ask(self, passages: Sequence[CollectedPassage], made: MadeRows) -> None:
        asked = [each for passage in passages for each in self._chosen(passage)]
        openings = OPENINGS["factual"]
        requests = [
            QuestionRequest(each.text, opening=openings[key(each.text) % len(openings)])
            for each in asked
        ]
        written = self._written(requests, made)
        usable = [(each, found) for each, found in zip(asked, written, strict=True) if found]
        answers = self._quoted(usable)
        for (each, question), answer in zip(usable, answers, strict=True):
            made.keep(_row(each.passage, "factual", question, answer, each.sentence))

    def _ask_about_topics(self, passages: Sequence[CollectedPassage], made: MadeRows) -> None:
        asked = [(passage, each) for passage in passages for each in self._topics(passage)]
        written = self._written([request for _, request in asked], made)
        for (passage, _), question in zip(asked, written, strict=True):
            if question:
                made.keep(_row(passage, "topic", question))

    def _topics(self, passage: CollectedPassage) -> list[QuestionRequest]:
        """Return the requests for questions on the beginning of a passage, with its title."""
        begin = " ".join(passage.text.split()[:_BEGIN_WORDS])
        text = f"{passage.title}. {begin}" if passage.title else begin
        openings = OPENINGS["topic"]
        number = min(self._config.per_passage, len(openings))
        random = Random(f"{self._config.seed} topic {passage.id}")
        return [QuestionRequest(text, "topic", each) for each in random.sample(openings, number)]

    def _written(self, requests: Sequence[QuestionRequest], made: MadeRows) -> list[str | None]:
        """Return the written questions; None for a line that is not usable, which is counted."""
        found: list[str | None] = []
        for request, line in zip(requests, self._writer.questions(requests), strict=True):
            question = " ".join(line.split())
            if reason := unusable(question, request.text):
                made.drop(reason)
            found.append(None if reason else question)
        return found

    def _chosen(self, passage: CollectedPassage) -> list[AskedSentence]:
        """Return the sentences of a passage to write questions on, drawn with the run's seed."""
        found = statements(passage.text)
        random = Random(f"{self._config.seed} {passage.id}")
        chosen = random.sample(found, min(self._config.per_passage, len(found)))
        return [AskedSentence(passage, sentence) for sentence in found if sentence in chosen]

    def _quoted(self, asked: Sequence[tuple[AskedSentence, str]]) -> list[str | None]:
        """Return the spans that the model quotes from the sentences as answers; None without one.

        A question whose answer is no such span is still a question that leads to its passage.
        """
        form = form_for(self._model.model)
        prompts = [form.over(question, [each.text]) for each, question in asked]
        found = self._model.texts(prompts, until=["\n"], max_new_tokens=_ANSWER_TOKENS)
        return [
            quoted(answer, each.sentence, question)
            for answer, (each, question) in zip(found, asked, strict=True)
        ]

    def _add_keywords(self, passage: CollectedPassage, made: MadeRows) -> None:
        terms = self._terms.of(passage.embedded)
        if len(terms) < 2:
            made.drop("without key terms")
            return
        made.keep(_row(passage, "keyword", " ".join(terms)))

    def _add_claim(self, passage: CollectedPassage, made: MadeRows) -> None:
        """Add a sentence as a claim, one that no question is written on if there is one."""
        asked = {each.sentence for each in self._chosen(passage)}
        every = statements(passage.text)
        sentence = next((each for each in every if each not in asked), every[0])
        made.keep(_row(passage, "claim", sentence, sentence=sentence))


def unusable(question: str, text: str) -> str | None:
    """Return the reason why a written line is no question on a text; None if it is one."""
    if not question.endswith(("?", "？")):
        return "no question"
    if len(question.split()) < _FEWEST_WORDS and question.isascii():
        return "too short"
    if _ABOUT_THE_TEXT.search(question):
        return "about the text"
    if not _content_words(question) & _content_words(text):
        return "about something else"
    return None


def _content_words(text: str) -> set[str]:
    """Return the words of a text that carry meaning by their length, or all of a short text."""
    words = re.findall(r"\w+", text.casefold())
    return {word for word in words if len(word) >= _LONG_WORD} or set(words)


def quoted(answer: str, sentence: str, question: str) -> str | None:
    """Return an answer as it stands in a sentence; None if it does not, or if the question has it.

    White space, case and the punctuation around the answer may differ.
    """
    words = answer.strip().strip(".,;:!\"'()").split()
    if not words or " ".join(words).casefold() in question.casefold():
        return None
    pattern = r"\s+".join(re.escape(word) for word in words)
    found = re.search(rf"(?<!\w){pattern}(?!\w)", sentence, re.IGNORECASE)
    return found[0] if found else None


def distinct(made: MadeRows) -> MadeRows:
    """Return questions without those of an earlier row of the same split, which are counted."""
    found = MadeRows(counts=made.counts.copy())
    seen: set[tuple[str, int]] = set()
    for row in made.rows:
        name = (row["split"], key(row["question"]))
        if name in seen:
            found.counts["kept"] -= 1
            found.drop(REPEATED)
        else:
            seen.add(name)
            found.rows.append(row)
    return found


def asked_row(passage: CollectedPassage, question: str, answer: str | None, *, source: str) -> Row:
    """Return the row of a question that a person asked about a passage."""
    row = _row(passage, "factual", question, answer)
    return {**row, "source": source}


def _row(
    passage: CollectedPassage,
    kind: QuestionKind,
    question: str,
    answer: str | None = None,
    sentence: str | None = None,
) -> Row:
    found: Mapping[str, object] = {
        "passage": passage.id,
        "split": passage.split,
        "kind": kind,
        "question": question,
        "answer": answer,
        "sentence": sentence,
        "source": "written",
    }
    return dict(found)
