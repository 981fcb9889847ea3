"""Public names: documented, importable, and all that README, docs and examples use."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {
    "gritlm.integrations.haystack": "haystack",
    "gritlm.integrations.langchain": "langchain_core",
    "gritlm.integrations.llama_index": "llama_index",
}
PACKAGES = (
    "gritlm",
    "gritlm.adapt",
    "gritlm.rag",
    "gritlm.train",
    "gritlm.evaluation",
    "gritlm.serve",
    "gritlm.integrations",
    "gritlm.scale",
    *FRAMEWORKS,
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))


def public(package: str) -> list[str]:
    names: list[str] = importlib.import_module(package).__all__
    return names


NAMES = [(package, name) for package in PACKAGES for name in public(package)]


def python_of(path: Path) -> Iterator[str]:
    """Yield the Python of an example, of the cells of a notebook, or of the blocks of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
        yield from ("".join(cell["source"]) for cell in cells)
        return
    yield from (
        [text] if path.suffix == ".py" else re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    )


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES, *NOTEBOOKS], ids=lambda path: path.name)
def test_pages_examples_and_notebooks_import_public_names_alone(path):
    for code in python_of(path):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                assert not [each.name for each in node.names if each.name.startswith("gritlm.")]
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "gritlm":
                assert node.module in PACKAGES
                assert {each.name for each in node.names} <= set(public(node.module))


@pytest.mark.parametrize(("package", "name"), NAMES, ids=".".join)
def test_a_public_name_is_there_and_documented(package, name):
    if package in FRAMEWORKS:
        pytest.importorskip(FRAMEWORKS[package])
    value = getattr(importlib.import_module(package), name)
    if not isinstance(value, str):
        assert inspect.getdoc(value)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_public_names_and_knows_no_others(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nothing_like_it'"):
        _ = module.nothing_like_it


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_heavy_library(package):
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "fastapi", "lancedb"} & set(done.stdout.split())
