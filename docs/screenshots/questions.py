"""Questions of the screenshots, the facts of their answers, and the document that is uploaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.pdfs import lines_pdf

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "examples" / "corpus" / "passages.jsonl"
FILE = Path(__file__).with_name("questions.json")


@dataclass(frozen=True)
class Question:
    """A question, and the properties of its answer that make it right.

    Attributes:
        name: name of the question in the file.
        text: the question.
        facts: groups of spellings; an answer has one spelling of each group, as whole words.
        document: id of the document that the answer comes from; None for a chat without documents.
        quote: the sentence of the document that is quoted below the answer.
    """

    name: str
    text: str
    facts: Sequence[Sequence[str]]
    document: str | None = None
    quote: str | None = None

    def missing(self, answer: str) -> list[str]:
        """Return the groups of spellings that an answer lacks, each as one text."""
        return [
            " or ".join(group)
            for group in self.facts
            if not any(
                re.search(rf"(?<!\w){re.escape(each)}(?!\w)", answer, re.I) for each in group
            )
        ]


@dataclass(frozen=True)
class Guide:
    """The document that is uploaded: a PDF file with the lines of its pages."""

    name: str
    pages: Sequence[Sequence[str]]

    def pdf(self) -> bytes:
        """Return the PDF file."""
        return lines_pdf(["\n".join(page) for page in self.pages])


def questions() -> dict[str, Question]:
    """Return the questions by their names."""
    return {name: Question(name, **entry) for name, entry in _file()["questions"].items()}


def guide() -> Guide:
    """Return the document that is uploaded."""
    return Guide(**_file()["guide"])


def texts_to_embed() -> list[str]:
    """Return the texts of the heat map and of the map."""
    return list(_file()["texts"])


def digest() -> str:
    """Return a hash of the questions, the document and the texts, the order of names aside."""
    return sha256(json.dumps(_file(), sort_keys=True).encode()).hexdigest()


def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))
