"""The name of the distribution, the hints that install it, and the reference beside it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gritlm import distribution

ROOT = Path(__file__).parents[1]
REFERENCE = "Metadata-Version: 2.1\nName: gritlm\nVersion: 1.0.2\n"


class Installed:
    """A distribution with the file that pip leaves about its origin."""

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


def test_the_distribution_has_the_name_that_hints_use():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == distribution.NAME == "gritlm-unified"
    assert project["scripts"] == {"gritlm": "gritlm.cli:main"}


def test_no_other_place_spells_an_installation_of_the_reference():
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py")]
    files = [path for path in files if path.name not in ("log.md", "CHANGELOG.md")]
    spelled = re.compile(r"pip install (-U )?['\"]?gritlm[\['\" \n]|gritlm\[")
    assert [path for path in files if spelled.search(path.read_text(encoding="utf-8"))] == []


def test_in_a_checkout_the_hint_names_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert distribution.install_hint("train") == f"pip install -e '{ROOT}[train]'"
    monkeypatch.chdir(ROOT)
    assert distribution.install_hint("train") == "pip install -e '.[train]'"


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        (None, "pip install 'gritlm-unified[rag]'"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'gritlm-unified[rag] @ git+https://host/x.git@abc'",
        ),
        (
            {"url": "file:///tmp/x.whl", "archive_info": {}},
            "pip install 'gritlm-unified[rag] @ file:///tmp/x.whl'",
        ),
    ],
    ids=["index", "repository", "file"],
)
def test_an_installed_copy_names_its_origin(origin, hint, monkeypatch, tmp_path):
    monkeypatch.setattr(distribution, "PACKAGE", tmp_path / "site-packages" / "gritlm")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
    assert distribution.install_hint("rag") == hint


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A folder of packages in which the reference is installed."""
    about = tmp_path / "site" / "gritlm-1.0.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(REFERENCE)
    return about.parent


def python(*words: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment
    )


def test_the_first_import_of_the_model_room_reports_the_reference(reference):
    path = f"{reference}{os.pathsep}{ROOT / 'src'}"
    done = python("-c", "import gritlm; print('quiet'); import gritlm.lm", path=path)
    assert done.stdout == "quiet\n"
    (line,) = done.stderr.splitlines()
    assert "gritlm 1.0.2" in line
    assert f"the files in use are in {ROOT / 'src' / 'gritlm'}" in line
    assert f"run: pip uninstall -y gritlm && pip install -e '{ROOT}'" in line or "-e '.'" in line


def test_an_earlier_installation_of_this_project_is_no_conflict(reference):
    entry = "[console_scripts]\ngritlm = gritlm.cli:main\n"
    (reference / "gritlm-1.0.2.dist-info" / "entry_points.txt").write_text(entry)
    done = python("-c", "import gritlm.lm", path=f"{reference}{os.pathsep}{ROOT / 'src'}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_of_a_package_that_the_reference_has_replaced_says_so(reference):
    shutil.copytree(ROOT / "src" / "gritlm", reference / "gritlm")
    (reference / "gritlm" / "__init__.py").write_text("class GritLM:\n    pass\n")
    done = python("-m", "gritlm", "info", path=str(reference))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("gritlm: error: the reference implementation (gritlm 1.0.2)")
    assert "pip uninstall -y gritlm" in line
