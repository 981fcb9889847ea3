"""Questions that people asked, from a file, and the passages that they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gritlm import jsonl
from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.rows.questions import asked_row
from gritlm.adapt.run_folder import MadeRows
from gritlm.adapt.starting_model import StartingModel
from gritlm.errors import InputError, one_line

ASKED = "asked"  # source of their rows
_CANDIDATES = 4  # passages that a question without one is read after
_LONGEST = 1000  # characters of a question
TOO_LONG = "asked at too great length"
UNKNOWN_DOCUMENT = "asked about documents that are not used"


@dataclass(frozen=True)
class RealQuestion:
    """A question that a person asked.

    Attributes:
        question: the question.
        about: id of its document or passage; None if it is unknown.
        by_document: whether a document is named, any passage of which answers.
        answer: its answer; None if it is unknown.
        place: ``file:line``.
    """

    question: str
    about: str | None
    by_document: bool
    answer: str | None
    place: str


class Places:
    """Passages of a collection by the id of a passage or document.

    A document that is a row of a file has the id ``folder/file.jsonl#id``; ``id`` alone names it
    too, as long as a single document ends so.

    Args:
        passages: the passages.
    """

    def __init__(self, passages: Sequence[CollectedPassage]) -> None:
        self._found: dict[str, list[CollectedPassage]] = defaultdict(list)
        short: dict[str, set[str]] = defaultdict(set)
        for passage in passages:
            self._found[passage.id].append(passage)
            self._found[passage.document].append(passage)
            short[passage.document.rpartition("#")[2]].add(passage.document)
        for name, documents in short.items():
            if len(documents) == 1 and name not in self._found:
                self._found[name] = self._found[next(iter(documents))]

    def of(self, about: str) -> list[CollectedPassage]:
        """Return the passages of an id; an empty list for an unknown one."""
        return self._found.get(about, [])


def read(path: str) -> list[RealQuestion]:
    """Read questions from JSON lines: ``question``, and optional ``document`` or ``passage``.

    Raises:
        InputError: for a line that is no such row, with ``file:line``, and for an empty file.
    """
    found = []
    for place, line in jsonl.text_lines(Path(path), missing=" is missing; expected questions"):
        row = jsonl.record(line, place)
        texts = {name: row.get(name) for name in ("question", "document", "passage", "answer")}
        for name, value in texts.items():
            usable = isinstance(value, str) and value.strip()
            if not (usable or (value is None and name != "question")):
                raise InputError(f"{place}: {name} is {one_line(value, limit=80)}; expected a text")
        question = " ".join(str(texts["question"]).split())
        about = texts["passage"] or texts["document"]
        by_document = not texts["passage"] and about is not None
        found.append(RealQuestion(question, about, by_document, texts["answer"], place))
    if not found:
        raise InputError(f"{path} has no questions; expected one a line")
    return found


def assign(
    asked: Sequence[RealQuestion], passages: Sequence[CollectedPassage], model: StartingModel
) -> MadeRows:
    """Return rows of questions with the passage that answers each.

    Of a document with several passages, and of the whole collection for a question whose document
    is unknown, it is the passage after which the question is likeliest, among the nearest ones.

    Args:
        asked: the questions.
        passages: passages of both parts of the collection.
        model: the model that is adapted.
    """
    places = Places(passages)
    number = {passage.id: index for index, passage in enumerate(passages)}
    made = MadeRows()
    if not asked:
        return made
    passage_PD = model.passage_vectors(passages)
    query_QD = model.query_vectors([each.question for each in asked])
    for each, query_D in zip(asked, query_QD, strict=True):
        among = passages if each.about is None else places.of(each.about)
        if not among:
            made.drop(UNKNOWN_DOCUMENT)
            continue
        if len(each.question) > _LONGEST:
            made.drop(TOO_LONG)
            continue
        score_P = passage_PD[[number[passage.id] for passage in among]] @ query_D
        near = [among[i] for i in score_P.topk(min(_CANDIDATES, len(among))).indices.tolist()]
        best = near[0]
        if len(near) > 1:
            likely = model.likelihoods(each.question, [passage.embedded for passage in near])
            best = near[max(range(len(near)), key=likely.__getitem__)]
        known = {"by_document": each.by_document, "known": each.about is not None}
        made.keep({**asked_row(best, each.question, each.answer, source=ASKED), **known})
    return made
