"""CHANGELOG.md has the form of Keep a Changelog; what has not is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.release import changelog

ROOT = Path(__file__).parents[2]
GOOD = """# Changelog

## [Unreleased]

### Fixed
- A crash.

## [0.2.0] - 2026-12-24

### Added

**Model**

- One thing
  on two lines.

### Fixed
- Another.

## [0.1.0] - 2026-11-30

### Added
- The first.
"""


def test_the_changelog_has_the_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.problems(text) == []


def test_sections_are_read_with_their_entries(tmp_path):
    (tmp_path / "CHANGELOG.md").write_text(GOOD, encoding="utf-8")
    newest, oldest = changelog.read(tmp_path / "CHANGELOG.md")
    assert (newest.version, newest.date) == ("0.2.0", "2026-12-24")
    assert newest.entries == {"Added": ["One thing on two lines."], "Fixed": ["Another."]}
    assert oldest.entries == {"Added": ["The first."]}
    assert changelog.problems(GOOD) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("# Changelog\n", "# News\n", "line 1: the title"),
        ("- 2026-12-24", "- 24.12.2026", "write '## [X.Y.Z] - YYYY-MM-DD'"),
        ("### Added\n\n**Model**", "### New\n\n**Model**", "allowed once each"),
        ("### Fixed\n- Another", "### Added\n- Another", "allowed once each"),
        ("### Added\n\n**Model**", "### Security\n\n**Model**", "stand in the order"),
        ("- The first.\n", "", "no entry; leave the heading out"),
        ("[0.2.0]", "[0.1.0]", "each stands once, the newest first"),
        ("- The first.", f"- {'word ' * 20}\n" + f"  {'word ' * 20}\n" * 3, "at most 320"),
        ("- The first.", "-" + " long" * 30, "columns, at most 120"),
        ("- The first.", "The first.", "neither an entry"),
    ],
)
def test_another_form_is_found(before, after, problem):
    assert before in GOOD
    found = changelog.problems(GOOD.replace(before, after))
    assert any(problem in each for each in found), found


def test_a_release_is_newer_than_its_candidate():
    text = GOOD.replace("## [0.1.0] - 2026-11-30", "## [0.2.0rc1] - 2026-12-01")
    assert changelog.problems(text) == []
