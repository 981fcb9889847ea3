"""The code of the concepts pages runs with the default model and prints what the pages show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "concepts"
# The code of a Chinese page is that of the English one.
PAGES = sorted(page for page in FOLDER.glob("*.md") if not page.name.endswith(".zh.md"))
STEP = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_prints_the_lines_that_are_shown(
    page: Path,
    default_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = STEP.findall(page.read_text(encoding="utf-8"))
    assert steps
    namespace: dict[str, Any] = {}
    for code, shown in steps:
        capsys.readouterr()
        exec(compile(code, page.name, "exec"), namespace)
        printed = capsys.readouterr().out
        assert printed == shown or (printed and not shown)
