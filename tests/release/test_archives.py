"""Files, licences, sizes and metadata of small archives: what is wrong is found."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from email import message_from_string
from pathlib import Path

import pytest

from tests.release import archives
from tests.release.report import ReleaseError

LICENCES = {"LICENSE", "NOTICE"}
FILES = {*LICENCES, ".gitignore", "README.md", "src/gritlm/__init__.py", "src/gritlm/SOURCES.md"}
WHEEL = {
    "gritlm/__init__.py",
    "gritlm/SOURCES.md",
    "gritlm-1.0.dist-info/METADATA",
    *(f"gritlm-1.0.dist-info/licenses/{name}" for name in LICENCES),
}
SDIST = (FILES - {".gitignore"}) | {"PKG-INFO"}
METADATA = """Metadata-Version: 2.4
Name: gritlm-unified
Version: 1.0.0
License-Expression: Apache-2.0
License-File: LICENSE
License-File: NOTICE
Classifier: Programming Language :: Python :: 3 :: Only
Classifier: Programming Language :: Python :: 3.11
Classifier: Programming Language :: Python :: 3.12
Requires-Python: >=3.11
Description-Content-Type: text/markdown

Text
"""


def wheel(path: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def sdist(path: Path, files: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"gritlm-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_right_archives_have_no_problem():
    assert archives.problems_of_files(WHEEL, SDIST, FILES) == []
    assert archives.problems_of_licences(WHEEL, SDIST, FILES) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wheel": WHEEL - {"gritlm/__init__.py"}}, "the wheel lacks tracked files: gritlm/__init"),
        ({"wheel": WHEEL | {"gritlm/notes.txt"}}, "the wheel has files that git does not track"),
        ({"sdist": SDIST - {"README.md"}}, "the sdist lacks tracked files: README.md"),
        ({"sdist": SDIST | {"secret.env"}}, "the sdist has files that git does not track: secret"),
    ],
)
def test_missing_and_foreign_files_are_named(changes, problem):
    given = {"wheel": WHEEL, "sdist": SDIST, "files": FILES} | changes
    (found,) = archives.problems_of_files(given["wheel"], given["sdist"], given["files"])
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wheel": WHEEL - {"gritlm-1.0.dist-info/licenses/NOTICE"}}, "the wheel lacks"),
        ({"wheel": WHEEL - {"gritlm/SOURCES.md"}}, "the wheel lacks licence files: gritlm/SOURCES"),
        ({"sdist": SDIST - {"LICENSE"}}, "the sdist lacks licence files: LICENSE"),
        ({"files": FILES | {"examples/ATTRIBUTION.md"}}, "the sdist lacks licence files: examples"),
        ({"files": FILES - {"NOTICE"}}, "the repository lacks: NOTICE"),
    ],
)
def test_missing_licences_are_named(changes, problem):
    given = {"wheel": WHEEL, "sdist": SDIST, "files": FILES} | changes
    (found,) = archives.problems_of_licences(given["wheel"], given["sdist"], given["files"])
    assert found.startswith(problem)


def test_the_model_cards_of_the_weights_are_attributions(tmp_path):
    root = Path(__file__).parents[2]
    files = archives.tracked(root)
    cards = {"src/gritlm/lm/adapter/README.md", "src/gritlm/lm/media/projectors/README.md"}
    assert cards <= files
    in_wheel = {name.removeprefix("src/") for name in files - cards}
    found = archives.problems_of_licences(in_wheel, files, files)
    assert any("gritlm/lm/adapter/README.md" in each for each in found)


def test_a_large_archive_is_refused_with_its_largest_files(tmp_path):
    path = wheel(tmp_path / "a-1.0-py3-none-any.whl", {"small": "a", "large": "b" * 2_000_000})
    assert archives.problems_of_size(path, 3_000_000) == []
    (found,) = archives.problems_of_size(path, 1_000_000)
    assert found.startswith("a-1.0-py3-none-any.whl has 2.0 MB, at most 1 MB; largest: large 2.0")


def test_wheels_are_compared_by_their_contents(tmp_path):
    one = wheel(tmp_path / "one.whl", {"a": "1", "b": "2"})
    same = wheel(tmp_path / "same.whl", {"b": "2", "a": "1"})
    other = wheel(tmp_path / "other.whl", {"a": "1", "b": "3", "c": "4"})
    assert archives.differences(one, same) == []
    (found,) = archives.differences(one, other)
    assert found.endswith("in: b, c")


def test_names_in_an_sdist_have_no_top_folder(tmp_path):
    path = sdist(tmp_path / "a.tar.gz", {"README.md": "text", "src/a.py": ""})
    assert set(archives.entries(path)) == {"README.md", "src/a.py"}


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("Version: 1.0.0", "Version: 1.0.1", "Version is '1.0.1', expected '1.0.0'"),
        (">=3.11", ">=3.10", "Requires-Python is '>=3.10', expected '>=3.11'"),
        ("Python :: 3.12", "Python :: 3.10", "classifiers of Python"),
        ("License-Expression: Apache-2.0\n", "", "License-Expression is None"),
        ("License-File: NOTICE\n", "", "License-File is ['LICENSE']"),
        ("text/markdown", "text/plain", "Description-Content-Type"),
    ],
)
def test_other_metadata_is_named(before, after, problem):
    wanted = {"version": "1.0.0", "pythons": ["3.11", "3.12"]}
    assert archives.problems_of_metadata(message_from_string(METADATA), **wanted) == []
    changed = message_from_string(METADATA.replace(before, after))
    (found,) = archives.problems_of_metadata(changed, **wanted)
    assert found.startswith(problem)


def test_metadata_is_read_from_a_wheel(tmp_path):
    path = wheel(tmp_path / "a.whl", {"a-1.0.dist-info/METADATA": METADATA})
    assert archives.metadata(path)["Version"] == "1.0.0"


def test_tracked_files_are_those_of_git(tmp_path):
    with pytest.raises(ReleaseError, match="is no git repository"):
        archives.tracked(tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("kept", "deleted", "not tracked"):
        (tmp_path / name).write_text("")
    subprocess.run(["git", "add", "kept", "deleted"], cwd=tmp_path, check=True)
    (tmp_path / "deleted").unlink()
    assert archives.tracked(tmp_path) == {"kept"}
