"""Sources of the documentation site: its pages, links and reference."""

from __future__ import annotations

import base64
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from benchmarks.speed.page import page as benchmarks_page

from gritlm.cli.app import create_app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


@pytest.fixture(scope="module")
def prepare() -> Iterator[ModuleType]:
    """The script that writes the sources."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    yield importlib.import_module("prepare")
    sys.path.pop(0)
    for name in ("prepare", "drawings", "hooks", "landing", "notebook_pages", "reference"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(prepare: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site") / "docs"
    prepare.prepare(target)
    return target


def _pages_of(navigation: list[object]) -> Iterator[str]:
    for entry in navigation:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from _pages_of(value)
            else:
                yield str(value)


def test_the_navigation_has_every_page_once(folder: Path) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = sorted(_pages_of(settings["nav"]))
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    assert listed == sorted(name for name in written if not name.endswith(".zh.md"))


def test_every_link_of_a_page_leads_to_a_file_of_the_site(folder: Path) -> None:
    fenced = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
    broken = []
    for page in folder.rglob("*.md"):
        text = fenced.sub("", page.read_text(encoding="utf-8"))
        broken += [
            (page.name, link) for link in LINK.findall(text) if not (page.parent / link).is_file()
        ]
    assert not broken


def test_a_link_to_a_file_outside_of_the_site_becomes_its_path(prepare: ModuleType) -> None:
    text = "See [the card](../src/gritlm/lm/adapter/README.md), [here](rag.md#a)."
    assert prepare.renewed(text, "docs") == (
        "See the card (`src/gritlm/lm/adapter/README.md`), [here](rag.md#a)."
    )
    deeper = "[Modes](../rag.md#modes), [start](../../README.md)."
    assert prepare.renewed(deeper, "docs/concepts", "concepts") == (
        "[Modes](../rag.md#modes), [start](../index.md)."
    )
    code = "```python\nx = [a](b)\n```"
    assert prepare.renewed(code, "docs") == code


def test_a_chinese_drawing_has_no_english_words(folder: Path) -> None:
    drawings = sorted((folder / "images").glob("*.zh.svg"))
    assert len(drawings) == len(list((ROOT / "docs" / "images").glob("*.svg"))) >= 4
    for path in drawings:
        texts = re.findall(r"<(?:text|title|desc)\b[^>]*>([^<]+)<", path.read_text("utf-8"))
        assert any(re.search(r"[\u4e00-\u9fff]", text) for text in texts), path.name
        assert not any("vector" in text or "question" in text for text in texts), path.name


def test_a_drawing_with_an_unknown_text_is_refused(prepare: ModuleType) -> None:
    drawn = '<text x="1">vector</text><text x="2">7</text>'
    assert prepare.drawings.chinese(drawn, {"vector": "向量"}, "a.svg") == drawn.replace(
        "vector", "向量"
    )
    with pytest.raises(SystemExit, match=r"a\.svg: 'vector' is not in"):
        prepare.drawings.chinese(drawn, {}, "a.svg")


def test_the_page_of_the_command_line_has_every_command(folder: Path) -> None:
    page = (folder / "reference" / "cli.md").read_text(encoding="utf-8")
    command = typer.main.get_command(create_app())
    names = [name for name, each in command.commands.items() if not each.hidden]  # type: ignore[attr-defined]
    assert names
    assert all(f"`gritlm {name}`" in page for name in names)


def test_the_page_of_python_has_every_public_name(folder: Path) -> None:
    page = (folder / "reference" / "python.md").read_text(encoding="utf-8")
    for module in ("gritlm", "gritlm.rag", "gritlm.train", "gritlm.evaluation", "gritlm.serve"):
        for name in importlib.import_module(module).__all__:
            assert name.startswith("__") or re.search(rf"\b{name}\b", page), name


def test_roles_of_docstrings_are_not_shown(prepare: ModuleType) -> None:
    hooks = importlib.import_module("hooks")
    shown = hooks.on_page_content("see :meth:<code>with_adapter</code>, a:b <code>:c</code>")
    assert shown == "see <code>with_adapter</code>, a:b <code>:c</code>"


def test_a_public_name_without_a_docstring_is_refused(prepare: ModuleType) -> None:
    class Bare:
        """A class with a bare method."""

        def bare(self) -> None:
            return None

    with pytest.raises(ValueError, match=r"^place\.Bare\.bare: no docstring"):
        prepare.reference._require_documented(Bare, "place.Bare")


@pytest.mark.parametrize(
    ("page", "content"),
    [
        ("http.md", "## `POST /v1/chat/completions`"),
        ("training.md", "| `learning_rate` |"),
        ("metrics.md", "`gritlm_prompt_tokens_total`"),
    ],
)
def test_the_reference_is_written_from_the_program(folder: Path, page: str, content: str) -> None:
    assert content in (folder / "reference" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "title"), [("index.md", "Start"), ("index.zh.md", "开始")])
def test_the_first_page_leads_to_each_kind_of_reader(folder: Path, name: str, title: str) -> None:
    cards, _, _ = (folder / name).read_text(encoding="utf-8").partition(f"\n## {title}")
    linked = LINK.findall(cards)
    assert {"rag.md", "serving.md", "clients/index.md", "reference/cli.md"} <= {*linked}


def test_the_benchmarks_are_made_from_their_figures(folder: Path) -> None:
    figures = json.loads((ROOT / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    shown = (folder / "benchmarks.md").read_text(encoding="utf-8")
    assert shown == benchmarks_page(figures)


def test_a_page_of_a_notebook_has_its_cells_outputs_and_images(
    prepare: ModuleType, tmp_path: Path
) -> None:
    pages = importlib.import_module("notebook_pages")
    stream = {"output_type": "stream", "name": "stdout", "text": ["2\n"]}
    png = base64.b64encode(b"image").decode()
    figure = {"output_type": "display_data", "data": {"image/png": png, "text/plain": ["<F>"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# Sums\n", "See [two](2.ipynb)."]},
        {"cell_type": "code", "source": ["print(1 + 1)"], "outputs": [stream, figure]},
    ]
    (tmp_path / "1.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page = pages.write(tmp_path / "1.ipynb", tmp_path / "site", str.upper)
    assert page == (
        "# SUMS\nSEE [TWO](2.IPYNB).\n\n```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n\n"
        "![Figure of the cell above](1-1.png)\n"
    )
    assert (tmp_path / "site" / "1-1.png").read_bytes() == b"image"


def test_a_link_to_a_notebook_becomes_a_link_to_its_page(prepare: ModuleType) -> None:
    text = "[one](examples/notebooks/1_search.ipynb), [all](examples/notebooks/README.md)"
    assert prepare.renewed(text, "") == "[one](notebooks/1_search.md), [all](notebooks/index.md)"
