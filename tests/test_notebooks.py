"""The notebooks run without an error, and their kept outputs are whole, current and right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode, v4

from tests import notebooks

ROOT = notebooks.ROOT
PATHS = notebooks.paths()
# An adaptation has many steps; the kept outputs of it are checked in the default run.
SLOW = {"4_adapt"}
RUNS = [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in PATHS]
MOST_BYTES = 150_000  # of a notebook with its outputs
# Parts of texts that only the machine of the author has: paths, and noise of a terminal.
FOREIGN = re.compile(r"/home/|/root|/Users/|/tmp|/var/|\.venv|site-packages|\x1b\[|\d+%\|")

# Smaller settings of the default tests; FEW is a file of the passages that the questions need.
FEW = "few passages"
SMALL: dict[str, dict[str, Any]] = {
    "1_search": {},
    "2_cached_passages": {"PASSAGES": FEW, "REPEATS": 1, "COMPARED": 4},
    "3_train": {"PASSAGES": FEW, "STEPS": 1},
    "4_adapt": {
        "DOCUMENTS": FEW,
        "STEPS": 1,
        "GENERAL": (),
        "REPORT_ROWS": 10,
        "CHATS": str(ROOT / "recipes" / "tiny" / "held-out-chats.jsonl"),
    },
    "5_serve": {"DOCUMENTS": FEW},
}
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
    "2_cached_passages": (
        r"fear of heights called\?\n  acrophobia\n  from Phobias: Acrophobia is a fear of ",
        r"gout often attack first\?\n.*big toe.*\n  from Gout: .*big toe",
        r"spread the plague\?\n  Rats and fleas\n  from Plague: ",
        r"during an earthquake\?\n.*\n  from Earthquakes: .* slip past one another\.",
        r"fresh +0 +162 +\d+ ms  acrophobia\ncached +124 +38 +\d+ ms  acrophobia",
        r"coffee a day are safe\? 2-4 cups of coffee a day",
        r"int4 +0\.\d\d MB a passage: acrophobia",
    ),
    "3_train": (
        r"ranks before: 1( \d+){19}\n",
        r"difference: [+-]\d+ points, 95% interval [+-]\d+ to [+-]\d+\n",
    ),
    "4_adapt": (
        r"filter: .*\d+ kept",
        r"training: \d+ steps\n",
        r"kept    .*\?",
        r"^real-questions-trained-documents \d+\.\d -> \d+\.\d \([+-]",
        r"^(use|do not use|undecided): ",
        r"^before +0\.[3-9]\d\d\nadapted +0\.[3-9]\d\d$",
    ),
    "5_serve": (
        r"gritlm\ngritlm:rag",
        r"Paris",
        r"\d\d pieces: The three colors are:\n- Blue\n- Red\n- Green",
        r"^0\.\d\d  Hot rock and gas .*\n0\.\d\d  Tears",
        r"fear of heights called\? acrophobia\n",
        r"spread the plague\? Rats and fleas\n",
        r"Person\(name='Anna', age=31\)",
        r"^The diaphragm is a muscle under the lungs\.$",
        r"^the big toe$",
        r"the server has ended",
    ),
}
# Expressions that only the kept outputs must have, since the tests have smaller settings.
KEPT: dict[str, tuple[str, ...]] = {
    "1_search": (r"the right one for 20 of 20",),
    "2_cached_passages": (
        r"120 passages in ",
        r"cached: 1[0-4] of 20 answers have the key facts",
        r"the same text: (19|20) of 20",
        r"Carmen\? .* \(supported: False\)",
        r"coffee a day \(supported: True\)",
    ),
    "3_train": (
        r"first for 3 questions before, 1[0-9] after",
        r"\nthe interval is above 0",
    ),
    "4_adapt": (r"^undecided: ",),
    "5_serve": (r"120 documents",),
}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of the passages that the questions are about, and of some others."""
    rows = jsonl_rows("passages")
    asked = {row["passage"] for row in jsonl_rows("questions")}
    others = [row for row in rows if row["id"] not in asked][:16]  # a batch of the training
    path = tmp_path_factory.mktemp("corpus") / "few.jsonl"
    chosen = [row for row in rows if row["id"] in asked or row in others]
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return path


def jsonl_rows(name: str) -> list[dict[str, Any]]:
    text = (ROOT / "examples" / "corpus" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def missing(facts: tuple[str, ...], notebook: NotebookNode) -> list[str]:
    """Return the expressions that the outputs do not have."""
    text = notebooks.printed(notebook)
    return [fact for fact in facts if re.search(fact, text, re.MULTILINE) is None]


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


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_have_the_facts(path, few, tmp_path, default_folder):
    settings = {
        name: str(few) if value == FEW else value for name, value in SMALL[path.stem].items()
    }
    done = notebooks.run(path, tmp_path, **settings)
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
