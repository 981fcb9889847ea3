"""The version stands in one place, is the same in all others, and in the tag of a release."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import gritlm
from gritlm.cli import main
from gritlm.serve.app import create_app
from gritlm.serve.config import ServerConfig
from tests.release import versions
from tests.release.report import ReleaseError

ROOT = Path(__file__).parents[2]
VERSION = gritlm.__version__
CHANGELOG = f"# Changelog\n\n## [{VERSION}] - unreleased\n\n### Added\n- All.\n"
FILES = (
    "pyproject.toml",
    "CITATION.cff",
    "CHANGELOG.md",
    "deploy/helm/gritlm/Chart.yaml",
    versions.SOURCE,
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of all files that have the version."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    return tmp_path


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_every_place_has_the_version_of_the_package():
    assert versions.source_version(ROOT) == gritlm.__version__
    assert versions.problems(ROOT) == []


def test_the_openapi_document_and_the_command_have_the_version(monkeypatch, capsys):
    # The routes keep the service for later requests; the document needs only its settings.
    service = MagicMock(settings=ServerConfig())
    service.stores.engines = {}
    assert create_app(service).openapi()["info"]["version"] == VERSION
    monkeypatch.setattr("sys.argv", ["gritlm", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == f"gritlm {VERSION}\n"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("CITATION.cff", f"version: {VERSION}", "version: 9.9.9"),
        ("CHANGELOG.md", f"[{VERSION}]", "[9.9.9]"),
        ("deploy/helm/gritlm/Chart.yaml", f'appVersion: "{VERSION}"', 'appVersion: "9.9.9"'),
        ("pyproject.toml", 'dynamic = ["version"]', 'version = "9.9.9"'),
    ],
)
def test_a_place_with_another_version_is_named(repository, name, before, after):
    change(repository / name, before, after)
    (problem,) = versions.problems(repository)
    assert problem.startswith(name)
    assert problem.endswith("write the same version")


@pytest.mark.parametrize("version", ["0.1", "v0.1.0", "0.1.0-rc1", "01.0.0"])
def test_a_version_of_another_form_is_refused(repository, version):
    change(repository / versions.SOURCE, f'"{VERSION}"', repr(version))
    with pytest.raises(ReleaseError, match=r"write X\.Y\.Z"):
        versions.problems(repository)


def test_a_tag_of_another_version_is_refused(repository):
    change(repository / "CHANGELOG.md", "- unreleased", "- 2026-12-01")
    assert versions.problems_of_tags(repository, [f"v{VERSION}", "vendor", "nightly"]) == []
    (problem,) = versions.problems_of_tags(repository, ["v9.9.9"])
    assert problem.startswith(f"tag 'v9.9.9', but src/gritlm/__init__.py has '{VERSION}'")


def test_a_tag_of_a_version_without_a_date_is_refused(repository):
    (problem,) = versions.problems_of_tags(repository, [f"v{VERSION}"])
    assert "unreleased" in problem


def test_the_tags_of_the_commit_are_read_from_git(repository):
    assert versions.tags_of_head(repository) == []
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "A"], ["tag", "v9.9.9"]):
        subprocess.run(["git", *who, *words], cwd=repository, check=True)
    assert versions.tags_of_head(repository) == ["v9.9.9"]
