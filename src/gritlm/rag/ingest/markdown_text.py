"""Front matter, title and comments of Markdown files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from gritlm.errors import InputError
from gritlm.rag.ingest.metadata import MAX_BYTES

TOML = "+++"
YAML = "---"
ATX = re.compile(r"^ {0,3}#[ \t]+(\S.*)$")  # linear time: there is only one way to match
SETEXT = re.compile(r"^ {0,3}=+\s*$")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
MARKS = re.compile(r"`+|<!--|-->")
FIELD = re.compile(r"[\w\"'-][\w \"'.-]{0,100}:(?:\s|$)")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """YAML loader without aliases, which let a small file expand until memory is full."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Return the front matter of a text, and the text behind it.

    Front matter is YAML between ``---`` lines or TOML between ``+++`` lines; anything else stays in
    the text.

    Raises:
        InputError: if the front matter is larger than metadata may be.
    """
    first, _, rest = text.partition("\n")
    mark = first.rstrip()
    if mark not in (YAML, TOML):
        return {}, text
    ends = {YAML, "..."} if mark == YAML else {TOML}
    offset = 0
    for line in rest.splitlines(keepends=True):
        if line.rstrip() in ends:
            found = _parsed(rest[:offset], mark)
            return ({}, text) if found is None else (found, rest[offset + len(line) :])
        offset += len(line)
        if offset > 4 * MAX_BYTES:
            break
    return {}, text


def _parsed(block: str, mark: str) -> dict[str, Any] | None:
    if len(block.encode(errors="replace")) > MAX_BYTES:
        if mark == YAML and not FIELD.match(block.lstrip()):
            return None  # text between two horizontal rules
        raise InputError(
            f"its front matter has more than {MAX_BYTES:,} bytes; move the text out of it"
        )
    try:
        found = _yaml(block) if mark == YAML else _toml(block)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None
    return {str(name): value for name, value in found.items()} if isinstance(found, dict) else None


def _yaml(block: str) -> Any:
    return yaml.load(block, Loader=_Loader) or {}


def _toml(block: str) -> Any:
    import tomllib

    return tomllib.loads(block)


def title_of(text: str) -> str:
    """Return the first heading of level 1 outside of fenced code, or ""."""
    before = ""
    for line in _prose(text):
        if found := ATX.match(line):
            return found[1].rstrip().rstrip("#").strip() or before
        if before and SETEXT.match(line):
            return before
        before = line.strip() if not line.startswith(("    ", "\t", ">")) else ""
    return ""


def _prose(text: str) -> Iterator[str]:
    """Yield the lines outside of fenced code, blank lines included."""
    fence = ""
    for line in text.split("\n"):
        found = FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
        elif found and not (found[1][0] == "`" and "`" in found[2]):
            fence = found[1]
            yield ""
        else:
            yield line


def without_comments(text: str) -> str:
    """Return the text without HTML comments; comments in code are kept."""
    if "<!--" not in text:
        return text
    kept: list[str] = []
    fence = ""
    inside = False
    for line in text.split("\n"):
        found = None if inside else FENCE.match(line)
        if fence:
            kept.append(line)
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
            continue
        if found and not (found[1][0] == "`" and "`" in found[2]):
            fence = found[1]
            kept.append(line)
            continue
        rest, inside = _shown(line, inside)
        if rest.strip() or rest == line:
            kept.append(rest)
    return text if inside else "\n".join(kept)  # an unclosed mark starts no comment


def _shown(line: str, inside: bool) -> tuple[str, bool]:
    """Return the visible part of a line, and whether a comment continues behind it."""
    shown: list[str] = []
    start = 0
    code = False
    for mark in MARKS.finditer(line):
        if inside:
            if mark[0] == "-->":
                inside = False
                start = mark.end()
        elif mark[0] == "<!--" and not code:
            shown.append(line[start : mark.start()])
            inside = True
        elif mark[0][0] == "`":
            code = not code
    if not inside:
        shown.append(line[start:])
    return "".join(shown), inside
