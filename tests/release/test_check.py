"""The steps of the check: a line each, environments on top of each other, a test for each extra."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.release import check, environments, extras
from tests.release.__main__ import parse
from tests.release.report import Outcome, ReleaseError, Report

ROOT = Path(__file__).parents[2]


def fail() -> Outcome:
    raise ReleaseError("the wheel has 99 MB, at most 45 MB")


def test_a_step_is_a_line_with_seconds_and_megabytes(capsys):
    report = Report()
    assert report.step("build", lambda: Outcome("a wheel", 12_300_000))
    assert not report.step("size", fail)
    assert report.finish() == 1
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.split() == ["build", "0.0", "s", "12.3", "MB", "a", "wheel"]
    assert second.endswith("FAILED: the wheel has 99 MB, at most 45 MB")
    assert err == "not ready: size\n"


def test_without_a_failure_the_release_is_ready(capsys):
    report = Report()
    report.step("build", lambda: Outcome("a wheel"))
    assert report.finish() == 0
    assert capsys.readouterr().out.endswith("ready for release\n")


def test_every_extra_of_the_package_has_a_test():
    assert extras.declared(ROOT) == set(extras.EXTRAS)
    defined = {
        node.name
        for node in ast.parse(extras.SMOKE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    for name, extra in extras.EXTRAS.items():
        assert set(extra.needs) <= set(extras.EXTRAS)
        if extra.is_run:
            assert {"eval": "evaluation"}.get(name, name.replace("-", "_")) in defined


def test_the_server_brings_all_that_it_imports():
    """The server imports the room of documents, with or without a store."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = project["optional-dependencies"]
    assert set(found["rag"]) <= set(found["serve"])


def test_extras_are_chosen_by_name():
    assert check.chosen_extras(None) == list(extras.EXTRAS)
    assert check.chosen_extras("none") == []
    assert check.chosen_extras("serve,rag") == ["serve", "rag"]
    with pytest.raises(ReleaseError, match="no extra 'rga'; there are adapt, "):
        check.chosen_extras("rga")


def test_an_extra_without_a_test_is_refused(monkeypatch):
    monkeypatch.delitem(extras.EXTRAS, "rag")
    with pytest.raises(ReleaseError, match=r"^rag: in pyproject\.toml or in tests/release"):
        check.chosen_extras(None)


def test_an_environment_sees_the_packages_below_it_and_none_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "of_this_process.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    below = environments.create(tmp_path / "below", has_pip=False)
    (below.packages / "plain.py").write_text("name = 'below'\n")
    top = environments.create(tmp_path / "top", below=below)
    code = "import plain; print(plain.name)"
    assert environments.run([str(top.python), "-c", code], tmp_path) == "below\n"
    (top.packages / "plain.py").write_text("name = 'top'\n")
    assert environments.run([str(top.python), "-c", code], tmp_path) == "top\n"
    with pytest.raises(ReleaseError, match="No module named 'of_this_process'"):
        environments.run([str(top.python), "-c", "import of_this_process"], tmp_path)
    assert below.size() > 0


def test_a_command_that_fails_is_named_with_its_last_lines(tmp_path):
    code = "import sys; print('one'); print('two'); sys.exit(3)"
    with pytest.raises(ReleaseError, match=r"ended with 3: one \| two"):
        environments.run([sys.executable, "-c", code], tmp_path)
    with pytest.raises(ReleaseError, match="no end within 0 s"):
        environments.run(
            [sys.executable, "-c", "import time; time.sleep(9)"], tmp_path, seconds=0.2
        )
    with pytest.raises(ReleaseError, match="No such file"):
        environments.run(["no-such-program"], tmp_path)


def test_the_workflow_runs_the_script_of_the_clone_on_the_supported_versions():
    workflow = yaml.safe_load((ROOT / check.WORKFLOW).read_text(encoding="utf-8"))
    assert check.tested_pythons(ROOT)[0] == "3.11"
    assert {"run": "bash .ci/run"} in workflow["jobs"]["test"]["steps"]
    assert {"run": "make release-check"} in workflow["jobs"]["release-check"]["steps"]


def test_the_makefile_passes_options_that_begin_with_dashes():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"-m tests\.release (.*) \$\(RELEASE\)$", text, re.M)
    option = "--index-url x"
    words = shlex.split(recipe.replace("$(TORCH_OPTIONS)", option))
    assert parse([*words, "--extras", "none"]).torch_options == option


def test_the_workflow_has_few_rights_and_pinned_actions():
    workflow = yaml.safe_load((ROOT / check.WORKFLOW).read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {})
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            if "uses" in step:
                _, _, commit = step["uses"].partition("@")
                assert len(commit) == 40
                assert int(commit, 16)
