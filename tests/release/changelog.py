"""Form of CHANGELOG.md, as Keep a Changelog describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

HEADINGS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
MOST_CHARACTERS = 320  # of an entry: more is documentation
MOST_COLUMNS = 120
_SECTION = re.compile(r"## \[(\d+\.\d+\.\d+\w*|Unreleased)\](?: - (\d{4}-\d\d-\d\d|unreleased))?")
_TOPIC = re.compile(r"\*\*[^*]+\*\*")


@dataclass
class Section:
    """Section of a version: its number, its date (None before the release), entries by heading."""

    version: str
    date: str | None
    entries: dict[str, list[str]] = field(default_factory=dict)


def read(path: Path) -> list[Section]:
    """Return the sections of a file, the newest first, without "Unreleased".

    Args:
        path: the file; use :func:`problems` to check its form.
    """
    sections, _ = _parsed(path.read_text(encoding="utf-8"))
    return [each for each in sections if each.version != "Unreleased"]


def problems(text: str) -> list[str]:
    """List the lines that do not have the form, each with its number."""
    sections, found = _parsed(text)
    if not text.startswith("# Changelog\n"):
        found.append("line 1: the title is '# Changelog'")
    versions = [_order(each.version) for each in sections]
    if versions != sorted(set(versions), reverse=True):
        found.append("versions: each stands once, the newest first")
    for section in sections:
        headings = list(section.entries)
        if headings != [name for name in HEADINGS if name in headings]:
            found.append(f"[{section.version}]: headings stand in the order {', '.join(HEADINGS)}")
        for heading, entries in section.entries.items():
            if not entries:
                found.append(f"[{section.version}] {heading}: no entry; leave the heading out")
            found += [
                f"[{section.version}] {heading}: {entry[:50]!r} has {len(entry)} characters; "
                f"at most {MOST_CHARACTERS}, the rest belongs in docs/"
                for entry in entries
                if len(entry) > MOST_CHARACTERS
            ]
    return found


def _order(version: str) -> tuple[int, int, int, str]:
    """Return a key that sorts versions; a release is behind its candidates."""
    if version == "Unreleased":
        return (10**9, 0, 0, "~")
    major, minor, patch, rest = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(\w*)", version).groups()  # type: ignore[union-attr]
    return (int(major), int(minor), int(patch), rest or "~")


def _parsed(text: str) -> tuple[list[Section], list[str]]:
    """Return sections and problems of single lines."""
    sections: list[Section] = []
    found: list[str] = []
    heading = None
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MOST_COLUMNS:
            found.append(f"line {number}: {len(line)} columns, at most {MOST_COLUMNS}")
        if line.startswith("## "):
            heading = None
            if (section := _SECTION.fullmatch(line)) is None:
                found.append(f"line {number}: {line!r}; write '## [X.Y.Z] - YYYY-MM-DD'")
                continue
            date = section[2] if section[2] != "unreleased" else None
            sections.append(Section(section[1], date))
        elif line.startswith("### "):
            heading = line.removeprefix("### ")
            if not sections or heading not in HEADINGS or heading in sections[-1].entries:
                found.append(f"line {number}: {line!r}; allowed once each: {', '.join(HEADINGS)}")
                heading = None
            else:
                sections[-1].entries[heading] = []
        elif line.startswith("- ") and heading is not None:
            sections[-1].entries[heading].append(line.removeprefix("- "))
        elif line.startswith("  ") and heading is not None and sections[-1].entries[heading]:
            sections[-1].entries[heading][-1] += " " + line.strip()
        elif line and heading is not None and not _TOPIC.fullmatch(line):
            found.append(f"line {number}: {line[:50]!r} is neither an entry nor a topic")
    return sections, found
