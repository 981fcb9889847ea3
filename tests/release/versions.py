"""Version of the package: written in one place, the same in all others, and in the tag."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.release import changelog
from tests.release.report import ReleaseError

SOURCE = "src/gritlm/__init__.py"
_FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:(?:a|b|rc)\d+)?")


def source_version(root: Path) -> str:
    """Return the version that the package writes down, without importing it.

    Args:
        root: folder of the repository.

    Raises:
        ReleaseError: if the file has no version, or one of another form.
    """
    for node in ast.parse((root / SOURCE).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            version = str(ast.literal_eval(node.value))
            if _FORM.fullmatch(version):
                return version
            raise ReleaseError(
                f"{SOURCE}: version {version!r}; write X.Y.Z, or X.Y.Zrc1 before a release"
            )
    raise ReleaseError(f"{SOURCE} has no __version__")


def copies(root: Path) -> dict[str, str]:
    """Return the version of each file that repeats it, by the name of the place."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    build = project.get("tool", {}).get("hatch", {}).get("version", {})
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    chart_file = "deploy/helm/gritlm/Chart.yaml"
    chart = yaml.safe_load((root / chart_file).read_text(encoding="utf-8"))
    newest = changelog.read(root / "CHANGELOG.md")[0]
    is_read = build.get("path") == SOURCE and "version" in project["project"].get("dynamic", [])
    return {
        "pyproject.toml": source_version(root) if is_read else "a version of its own",
        "CITATION.cff": str(citation["version"]),
        f"{chart_file}, version": str(chart["version"]),
        f"{chart_file}, appVersion": str(chart["appVersion"]),
        "CHANGELOG.md, newest section": newest.version,
    }


def problems(root: Path) -> list[str]:
    """List the places whose version differs from that of the package."""
    version = source_version(root)
    return [
        f"{place} has {found!r}, {SOURCE} has {version!r}; write the same version"
        for place, found in copies(root).items()
        if found != version
    ]


def tags_of_head(root: Path) -> list[str]:
    """Return the tags of the commit that is checked out; none outside a repository."""
    done = subprocess.run(
        ["git", "tag", "--points-at", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split() if done.returncode == 0 else []


def problems_of_tags(root: Path, tags: Iterable[str]) -> list[str]:
    """List tags that name another version, or a version that has no date yet.

    Args:
        root: folder of the repository.
        tags: tags of the commit; those that do not begin with ``v`` and a digit are left out.
    """
    version = source_version(root)
    newest = changelog.read(root / "CHANGELOG.md")[0]
    found = []
    for tag in tags:
        if not re.match(r"v\d", tag):
            continue
        if tag != f"v{version}":
            found.append(
                f"tag {tag!r}, but {SOURCE} has {version!r}; tag v{version}, or change the version"
            )
        elif newest.date is None:
            found.append(f"tag {tag!r}, but CHANGELOG.md says 'unreleased'; write the date there")
    return found
