"""Text of PDF pages, with hyphenated words joined and running heads removed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

BORDER = "\n\n"  # between pages
MARK = "\0"  # in front of a page until the text is complete
EDGE = 3  # lines at the top and at the bottom of a page that may be a running head
NEAR = 2  # pages back that a head is looked for: left and right ones may differ
FEWEST_WORDS = 3  # of a head with a page number
PAGE_WORDS = {
    "page",
    "p",
    "pg",
    "of",
    "seite",
    "s",
    "von",
    "sur",
    "de",
    "página",
    "pagina",
    "pág",
    "di",
    "sida",
    "av",
    "strona",
    "z",
    "стр",
    "страница",
    "из",
}
NUMBER = re.compile(r"\d+")
HYPHENATED = re.compile(r"(?<=[^\W\d_])[-\u2010\xad]\n{1,2}\0?(?=[^\W\d_])")
WORD_BEFORE = re.compile(r"[^\W\d_]*$")
WORD_BEHIND = re.compile(r"[^\W\d_]*")
LONGEST_PART = 40  # letters of a part of a word
LIGATURES = str.maketrans(
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\ufb05": "st",
        "\ufb06": "st",
    }
)


def text_of(pages: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return the text of all pages without page numbers, running heads and line hyphens.

    Returns:
        The text, and the offset in it at which each page begins; an empty page begins where the
        next one does.
    """
    bodies = ["\n".join(line.rstrip() for line in lines).strip() for lines in _bodies(pages)]
    kept = [body.replace(MARK, "") for body in bodies]
    marked = _joined(BORDER.join(MARK + body for body in kept if body)).replace("\xad", "")
    sizes = iter([len(text) for text in marked.split(MARK)[1:]])
    starts = accumulate((next(sizes) if body else 0 for body in kept), initial=0)
    return marked.replace(MARK, ""), tuple(starts)[:-1]


def _bodies(pages: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines of each page without repeated running heads and page numbers."""
    sheets = [_lines(page) for page in pages]
    for number, lines in enumerate(sheets):
        near = range(max(0, number - NEAR), min(len(sheets), number + NEAR + 1))
        others = [(number - other, sheets[other]) for other in near if other != number]
        top = _heads(lines, others, step=1)
        bottom = _heads(lines, others, step=-1)
        whole = top + bottom >= len(lines)  # a page of nothing else has no heads
        yield lines if whole else lines[top : len(lines) - bottom]


def _lines(page: str) -> list[str]:
    return page.translate(LIGATURES).strip().split("\n")


def _heads(lines: list[str], others: Sequence[tuple[int, list[str]]], *, step: int) -> int:
    """Return the number of lines at the top or bottom of a page that are running heads.

    Args:
        lines: lines of the page.
        others: distance of each nearby page, in pages before this one, and its lines.
        step: 1 to count from the top, -1 from the bottom.
    """
    count = numbers = 0
    for place, line in enumerate(lines[::step]):
        number = any(_is_number(line, sheet[::step], place, back) for back, sheet in others)
        if count > EDGE or not (
            number
            or not line.strip()
            or any(
                _continues(line, sheet[::step], place, back) for back, sheet in others if back > 0
            )
        ):
            break
        count += 1
        numbers += number and numbers == place
    if count <= EDGE:
        return count
    # So many lines are content that is repeated; at the top the first of them is still a head.
    return max(numbers, int(step > 0))


def _continues(line: str, other: list[str], place: int, back: int) -> bool:
    """Return whether another page has the same head, with its own page number.

    A short line that counts up (``Step 1``, ``Step 2``) may be a heading, so it is not a head.
    """
    if place >= len(other):
        return False
    if line.strip() == other[place].strip():
        return True
    return len(_words(line)) >= FEWEST_WORDS and _counts(line, other[place], back)


def _is_number(line: str, other: list[str], place: int, back: int) -> bool:
    """Return whether a line holds only a page number."""
    if place >= len(other) or not PAGE_WORDS.issuperset(_words(line)):
        return False
    return _counts(line, other[place], back)


def _words(line: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", line.lower())


def _counts(line: str, other: str, back: int) -> bool:
    """Return whether two lines differ only in one number, by the distance of their pages."""
    if NUMBER.sub("#", line).split() != NUMBER.sub("#", other).split():
        return False
    pairs = zip(NUMBER.findall(line), NUMBER.findall(other), strict=True)
    apart = [int(one[:9]) - int(two[:9]) for one, two in pairs if one != two]
    return apart == [back]


def _joined(text: str) -> str:
    """Return the text with words joined that were hyphenated at a line end.

    The hyphen is kept if the text has the word elsewhere with a hyphen only.
    """
    words = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text.lower()))

    def join(found: re.Match[str]) -> str:
        before = text[max(0, found.start() - LONGEST_PART) : found.start()]
        head = WORD_BEFORE.search(before)
        tail = WORD_BEHIND.match(text[found.end() : found.end() + LONGEST_PART])
        if head is None or tail is None or not tail[0][:1].islower():
            return found[0]
        mark = MARK if found[0].endswith(MARK) else ""
        whole = f"{head[0]}{tail[0]}".lower()
        hyphenated = f"{head[0]}-{tail[0]}".lower()
        return mark if whole in words or hyphenated not in words else f"-{mark}"

    return HYPHENATED.sub(join, text)
