"""Runs of the notebooks in examples/notebooks, and their kept outputs.

`python tests/notebooks.py` runs all notebooks and keeps their outputs; with names, these alone.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "notebooks"
TIMEOUT_S = 3600  # of a cell; a training on a busy machine takes long

# Metadata of every notebook; that of the machine that ran it is left out.
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def paths() -> list[Path]:
    """Return the notebooks, in the order of their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Return a notebook, which must have the form of its version."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def sources(notebook: NotebookNode) -> str:
    """Return the digest of all cells of code, which the kept outputs belong to."""
    return sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()


def texts(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """Yield name and text of every textual output: ``stdout``, ``stderr``, or a media type."""
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        if output.output_type == "stream":
            yield output.name, output.text
        elif output.output_type == "error":
            yield "error", "\n".join(output.traceback)
        else:
            data = output.data.items()
            yield from ((kind, text) for kind, text in data if kind.startswith("text/"))


def printed(notebook: NotebookNode) -> str:
    """Return all printed lines and shown values, one after the other."""
    return "\n".join(text for kind, text in texts(notebook) if kind in ("stdout", "text/plain"))


def run(path: Path, folder: Path, **parameters: object) -> NotebookNode:
    """Run a notebook in a copy of the folder ``examples``, and return it with its outputs.

    Args:
        path: the notebook.
        folder: an empty folder for the copy, and for all files that the notebook writes.
        parameters: values that replace those of the cell tagged ``parameters``.

    Raises:
        CellExecutionError: if a cell raises an error.
        ValueError: if a parameter is not assigned in that cell.
    """
    notebook = read(path)
    set_parameters(notebook, parameters)
    copy = folder / "examples"
    shutil.copytree(ROOT / "examples", copy, ignore=shutil.ignore_patterns("__pycache__", "work"))
    environment = {
        **os.environ,
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
    }
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(copy / FOLDER.name)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # no warning that the kernel listens on this machine
    )
    client.execute(env=environment)
    return notebook


def set_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Replace the values of the cell tagged ``parameters``.

    Raises:
        ValueError: if a parameter has no line in that cell.
    """
    (cell,) = [
        each for each in code_cells(notebook) if "parameters" in each.metadata.get("tags", ())
    ]
    for name, value in parameters.items():
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        if line.search(cell.source) is None:
            raise ValueError(f"the cell of parameters has no line '{name} = ...'")
        assigned = f"{name} = {value!r}"
        cell.source = line.sub(lambda _, text=assigned: text, cell.source)


def keep(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook with its outputs, without the facts of this machine."""
    notebook.metadata = NotebookNode({**_METADATA, "sources": sources(notebook)})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main(names: list[str]) -> None:
    """Run the named notebooks, or all, and keep their outputs."""
    chosen = [path for path in paths() if not names or path.stem in names]
    if unknown := set(names) - {path.stem for path in chosen}:
        known = ", ".join(path.stem for path in paths())
        first = min(unknown)
        raise SystemExit(f"no notebook is named {first!r}; there are: {known}")
    for path in chosen:
        started = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            keep(run(path, Path(folder)), path)
        print(f"{path.stem}: {perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
