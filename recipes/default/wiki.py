"""Template questions on the first sentences of Wikipedia passages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from texts import number, one_line

MOST = 2  # questions for each passage

_DATE = r"(?:\d{1,2} )?[A-Z][a-z]+ (?:\d{1,2}, )?\d{4}"
_WORD = r"(?:[A-Z]\.|[A-Z][\w'’-]+)"
_NAME = rf"{_WORD}(?: (?:de|van|von|da|of|{_WORD}))*(?<! of)"

# Template of a question, and the pattern of its answer.
FORMS = (
    ("When was {} born?", rf"\bborn (?:on |in )?({_DATE})"),
    ("When was {} born?", rf"\(\s*({_DATE})\s*[–-]\s*{_DATE}\s*\)"),
    ("When did {} die?", rf"\(\s*{_DATE}\s*[–-]\s*({_DATE})\s*\)"),
    ("Who directed {}?", rf"\bdirected by ({_NAME})"),
    ("Who is the director of {}?", rf"\bdirected by ({_NAME})"),
    ("Who stars in {}?", rf"\b(?:starring|stars) ({_NAME})"),
    ("Who wrote {}?", rf"\bwritten by ({_NAME})"),
    ("In which year did {} come out?", r"\bis an? (\d{4}) [^.]*?(?:film|album|song|drama|comedy)"),
    ("What kind of film is {}?", r"\bis an? \d{4} ([^.]*?film)\b"),
    ("Where was {} born?", rf"\b[Bb]orn in ({_NAME})[,.]"),
    ("Who is {}?", r"\bborn [^)]*\)?,? (?:is|was) (an? [^.,;()]{8,70}?)(?:,| who| that| and |\.)"),
    ("Who was {}?", r"\d{4}\s*\),? was (an? [^.,;()]{8,70}?)(?:,| who| that| and |\.)"),
    ("What is {}?", r"^[^.()]{3,60}? is (an? [^.,;()\d]{8,70}?)(?:,| who| that| and |\.)"),
    ("Who is the father of {}?", rf"\b(?:son|daughter) of (?:King |Duke |Count )?({_NAME})"),
)


def questions(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (question, title, text, answer), at most ``MOST`` for each passage."""
    path = folder / "reproduce" / "dataset" / "2wikimultihopqa_corpus.json"
    for passage in json.loads(path.read_text(encoding="utf-8")):
        title = one_line(passage["title"])
        text = one_line(passage["text"])
        name = re.sub(r" \((?!\d{4})[^)]*\)$", "", title)
        found = []
        for form, where in FORMS:
            if match := re.search(where, text[:600]):
                found.append((form.format(name), title, text, match[1].strip()))
        yield from sorted(dict.fromkeys(found), key=lambda one: number(one[0]))[:MOST]
