"""The scripts beside the package import names that the package has."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for room in ("benchmarks", "examples", "recipes") for path in (ROOT / room).rglob("*.py")
)


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of every ``from gritlm... import name`` of a script."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gritlm":
            for alias in node.names:
                yield str(node.module), alias.name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_imports_names_that_exist(path):
    missing = [
        f"{module}.{name}"
        for module, name in imported(path)
        if not hasattr(importlib.import_module(module), name) and not _is_module(f"{module}.{name}")
    ]
    assert missing == []


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
