"""Pages of the notebooks: their cells, and their kept outputs, as Markdown and images."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = "examples/notebooks"


def page_of(path: str) -> str | None:
    """Return the page of the site for a path of the repository; None for other files."""
    folder, _, name = path.rpartition("/")
    if folder != FOLDER:
        return None
    stem, _, kind = name.rpartition(".")
    return f"notebooks/{stem}.md" if kind == "ipynb" else None


def write(source: Path, target: Path, renewed: Callable[[str], str]) -> str:
    """Write the images of a notebook, and return its page.

    Args:
        source: the notebook.
        target: folder of the page, which gets the images.
        renewed: function of Markdown that changes its links to those of the site.
    """
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    images = _Images(source.stem, target)
    parts = (part for cell in cells for part in _parts(cell, images, renewed))
    return "\n\n".join(parts) + "\n"


class _Images:
    """Images of a page, which are numbered in their order."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.count = 0

    def add(self, png: str) -> str:
        """Write an image in base64, and return the name of its file."""
        self.count += 1
        name = f"{self.name}-{self.count}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(base64.b64decode(png))
        return name


def _parts(cell: dict[str, Any], images: _Images, renewed: Callable[[str], str]) -> Iterator[str]:
    text = _joined(cell["source"])
    if cell["cell_type"] == "markdown":
        yield renewed(text)
    elif cell["cell_type"] == "code":
        yield f"```python\n{text}\n```"
        for output in cell["outputs"]:
            yield _shown(output, images)


def _shown(output: dict[str, Any], images: _Images) -> str:
    """Return an output as a block of text, or as an image."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f"![Figure of the cell above]({images.add(_joined(data['image/png']))})"
    return f"```text\n{_joined(data['text/plain']).rstrip()}\n```"


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
