"""Write the sources of the documentation site: guides, README files, notebooks and reference.

Usage: python docs/site/prepare.py FOLDER

Links between pages stay links. A link to another file of the repository becomes its path, since the
site is not served from the repository. A page ``X.zh.md`` is the Chinese version of ``X.md``.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

import drawings
import landing
import notebook_pages
import reference
import translation

ROOT = Path(__file__).parents[2]
_ROOT_PAGES = {
    "index.md": "README.md",
    "index.zh.md": "README.zh.md",
    "contributing.md": "CONTRIBUTING.md",
    "contributing.zh.md": "CONTRIBUTING.zh.md",
    "changelog.md": "CHANGELOG.md",
    "notebooks/index.md": f"{notebook_pages.FOLDER}/README.md",
}
_FIRST_PAGES = ("index.md", "index.zh.md")
_GENERATED = {
    "reference/python.md": reference.python,
    "reference/cli.md": reference.command_line,
    "reference/http.md": reference.http,
    "reference/training.md": reference.training_settings,
    "reference/metrics.md": reference.metrics,
}
# The documented names may be on the site once, so the Chinese site leads to the English page.
_ENGLISH_ONLY = (
    "# Python\n\n公开接口的说明取自源代码的 docstring，只有英文："
    '<a href="../../../reference/python/">Python reference</a>。\n'
)
_PICTURES = "examples/pictures"
_LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")


def prepare(target: Path) -> None:
    """Write all pages and images of the site.

    Args:
        target: folder, which is replaced.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "images", target / "images")
    drawings.write_chinese(target / "images")
    shutil.copy(Path(__file__).with_name("site.css"), target)
    shutil.copytree(ROOT / _PICTURES, target / _PICTURES, ignore=shutil.ignore_patterns("*.md"))
    pages = {
        path.relative_to(ROOT / "docs").as_posix(): path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    for name, source in (pages | _ROOT_PAGES).items():
        text = translation.without_switch((ROOT / source).read_text(encoding="utf-8"))
        if name.endswith(translation.SUFFIX):
            text = translation.with_english_anchors(text, source, ROOT)
        text = renewed(text, posixpath.dirname(source), posixpath.dirname(name))
        if name in _FIRST_PAGES:
            text = landing.with_cards(text, chinese=name == _FIRST_PAGES[1])
        _write(target / name, text)
    _write_notebooks(target)
    for name, written in _GENERATED.items():
        _write(target / name, written())
    _write(target / "reference" / "python.zh.md", _ENGLISH_ONLY)


def _write_notebooks(target: Path) -> None:
    """Write a page for every notebook, and its images."""
    for source in sorted((ROOT / notebook_pages.FOLDER).glob("*.ipynb")):
        name = f"notebooks/{source.stem}.md"
        text = notebook_pages.write(
            source,
            target / "notebooks",
            lambda part: renewed(part, notebook_pages.FOLDER, "notebooks"),
        )
        _write(target / name, text)


def renewed(text: str, folder: str, site_folder: str = "") -> str:
    """Return the text of a page with its links as links of the site, or as paths.

    Args:
        text: Markdown; code blocks are kept as they are.
        folder: folder of the page in the repository.
        site_folder: folder of the page in the site.
    """

    def replaced(found: re.Match[str]) -> str:
        image, label, target, place = found.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        page = _page_of(path)
        if page is not None:
            page = posixpath.relpath(page, site_folder or ".")
            return f"{image}[{label}]({page}{place or ''})"
        return label if path in label else f"{label} (`{path}`)"

    parts = translation.FENCED.split(text)
    fences = [*translation.FENCED.findall(text), ""]
    return "".join(
        _LINK.sub(replaced, part) + fence for part, fence in zip(parts, fences, strict=True)
    )


def _page_of(path: str) -> str | None:
    """Return the page or image of the site for a path of the repository; None without one."""
    for name, source in _ROOT_PAGES.items():
        if path == source:
            return name
    if (page := notebook_pages.page_of(path)) is not None:
        return page
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.startswith(f"{_PICTURES}/") and path.endswith(".png") else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
