"""The notebooks run without an error, and their kept outputs are whole, current and right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode, v4

from tests import notebooks

PATHS = notebooks.paths()
MOST_BYTES = 150_000  # of a notebook with its outputs
# Parts of texts that only the machine of the author has: paths, and noise of a terminal.
FOREIGN = re.compile(r"/home/|/root|/Users/|/tmp|/var/|\.venv|site-packages|\x1b\[|\d+%\|")

# Smaller settings of the default tests.
SMALL: dict[str, dict[str, Any]] = {"1_search": {}}
# Expressions that the outputs must have, kept ones and those of the tests.
FACTS: dict[str, tuple[str, ...]] = {
    "1_search": (
        r"my ears ring after a concert\n +0\.\d\d  Tinnitus",
        r"a giant wave after the sea floor moved\n +0\.\d\d  Tsunamis",
        r"itchy red circle on the foot .*\n +0\.\d\d  Athlete's Foot",
        r"Tsunamis: 0 of 4 words",
        r"right one for (19|20) of 20",
        r"insects that live in hair\n.*Bedbugs.*\n +0\.\d\d  Head Lice",
        r"128 numbers, +512 MB for a million notes: (1[7-9]|20) of 20",
    ),
}
# Expressions that only the kept outputs must have, since the tests have smaller settings.
KEPT: dict[str, tuple[str, ...]] = {"1_search": (r"the right one for 20 of 20",)}


def missing(facts: tuple[str, ...], notebook: NotebookNode) -> list[str]:
    """Return the expressions that the outputs do not have."""
    text = notebooks.printed(notebook)
    return [fact for fact in facts if re.search(fact, text) is None]


def test_every_notebook_has_facts_and_settings_of_the_tests():
    names = {path.stem for path in PATHS}
    assert names
    assert names == set(SMALL) == set(FACTS) == set(KEPT)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_kept_outputs_belong_to_the_cells_and_are_in_order(path):
    notebook = notebooks.read(path)
    cells = notebooks.code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    remedy = f"keep the outputs of the changed cells: make notebooks NOTEBOOKS={path.stem}"
    assert notebook.metadata.sources == notebooks.sources(notebook), remedy
    assert any(cell.outputs for cell in cells)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_kept_outputs_have_no_errors_noise_or_paths_of_a_machine(path):
    notebook = notebooks.read(path)
    assert {kind for kind, _ in notebooks.texts(notebook)} <= {"stdout", "text/plain", "text/html"}
    assert not [text for _, text in notebooks.texts(notebook) if FOREIGN.search(text)]
    assert path.stat().st_size < MOST_BYTES
    assert set(notebook.metadata) == {"kernelspec", "language_info", "sources"}
    assert set(notebook.metadata.language_info) == {"name"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_kept_outputs_have_the_facts_of_the_story(path):
    assert missing(FACTS[path.stem] + KEPT[path.stem], notebooks.read(path)) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_have_the_facts(path, tmp_path, default_folder):
    done = notebooks.run(path, tmp_path, **SMALL[path.stem])
    assert missing(FACTS[path.stem], done) == []
    assert {kind for kind, _ in notebooks.texts(done)} <= {"stdout", "text/plain", "text/html"}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Function that writes a notebook with one cell of parameters, and returns its path."""

    def write(source: str) -> Path:
        folder = tmp_path / "examples" / notebooks.FOLDER.name
        folder.mkdir(parents=True)
        cell = v4.new_code_cell(source, metadata={"tags": ["parameters"]}, id="only")
        notebooks.keep(v4.new_notebook(cells=[cell]), folder / "own.ipynb")
        monkeypatch.setattr(notebooks, "FOLDER", folder)
        monkeypatch.setattr(notebooks, "ROOT", tmp_path)
        return folder / "own.ipynb"

    return write


def test_a_cell_that_fails_ends_the_run(own, tmp_path):
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.run(own("1 / 0"), tmp_path / "run")


def test_a_run_keeps_its_outputs_with_new_values_of_parameters(own, tmp_path):
    path = own("STEPS = 40  # of training\nprint(STEPS)")
    done = notebooks.run(path, tmp_path / "run", STEPS=2)
    assert notebooks.printed(done) == "2\n"
    notebooks.keep(done, path)
    assert notebooks.printed(notebooks.read(path)) == "2\n"


def test_a_parameter_that_the_notebook_does_not_have_is_refused(own, tmp_path):
    with pytest.raises(ValueError, match="no line 'STEP = "):
        notebooks.run(own("STEPS = 40"), tmp_path / "run", STEP=2)


def test_an_unknown_name_of_a_notebook_is_refused_with_the_known_ones(own):
    own("1")
    with pytest.raises(SystemExit, match="no notebook is named 'else'; there are: own"):
        notebooks.main(["else"])
