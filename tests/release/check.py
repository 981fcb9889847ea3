"""Steps of the check of a release: version, archives, and installations with every extra."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from tests.release import archives, changelog, environments, extras, versions
from tests.release.environments import Environment
from tests.release.report import Outcome, ReleaseError, Report

ROOT = Path(__file__).parents[2]
WORKFLOW = ".github/workflows/ci.yml"
_RELATIVE = re.compile(r"\]\((?!https?:|#|mailto:)")


@dataclass
class Release:
    """Wheel and sdist of the repository, and the folder in which they are checked.

    Attributes:
        work: folder of the check.
        torch_options: options of pip for PyTorch only, for example an index of builds for a CPU.
    """

    work: Path
    torch_options: tuple[str, ...] = ()

    @property
    def dist(self) -> Path:
        """Folder of wheel and sdist."""
        return self.work / "dist"

    @property
    def wheel(self) -> Path:
        """The wheel."""
        return _only(self.dist, "*.whl")

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        return _only(self.dist, "*.tar.gz")

    @cached_property
    def names(self) -> tuple[set[str], set[str], set[str]]:
        """Names in the wheel, names in the sdist, and tracked paths."""
        return (
            set(archives.entries(self.wheel)),
            set(archives.entries(self.sdist)),
            archives.tracked(ROOT),
        )

    def check_version(self) -> Outcome:
        """Compare the version of the package with its copies and with the tag of the commit."""
        tags = versions.tags_of_head(ROOT)
        if os.environ.get("GITHUB_REF_TYPE") == "tag":
            tags.append(os.environ["GITHUB_REF_NAME"])
        _refuse([*versions.problems(ROOT), *versions.problems_of_tags(ROOT, tags)])
        version = versions.source_version(ROOT)
        places = len(versions.copies(ROOT)) + 1
        return Outcome(f"{version} in {places} places, {', '.join(tags) or 'no tag'}")

    def check_changelog(self) -> Outcome:
        """Check the form of CHANGELOG.md."""
        path = ROOT / "CHANGELOG.md"
        _refuse(changelog.problems(path.read_text(encoding="utf-8")))
        newest = changelog.read(path)[0]
        count = sum(map(len, newest.entries.values()))
        return Outcome(f"[{newest.version}] {newest.date or 'unreleased'}: {count} entries")

    def build(self) -> Outcome:
        """Build wheel and sdist of the repository, with the tools of pyproject.toml alone."""
        shutil.rmtree(self.dist, ignore_errors=True)
        command = [sys.executable, "-m", "build", "--sdist", "--wheel"]
        environments.run([*command, "--outdir", str(self.dist), str(ROOT)], self.work)
        size = self.wheel.stat().st_size + self.sdist.stat().st_size
        return Outcome(f"{self.wheel.name}, {self.sdist.name}", size)

    def check_metadata(self) -> Outcome:
        """Check the metadata, and that the long description can be rendered."""
        command = [sys.executable, "-m", "twine", "check", "--strict"]
        environments.run([*command, str(self.wheel), str(self.sdist)], self.work)
        version = versions.source_version(ROOT)
        found = archives.metadata(self.wheel)
        _refuse(archives.problems_of_metadata(found, version=version, pythons=tested_pythons(ROOT)))
        text = "twine --strict, Python versions and licence as tested"
        relative = len(_RELATIVE.findall(str(found.get_payload())))
        if relative:
            text += f"; {relative} links of the README lead to files that an index does not show"
        return Outcome(text)

    def check_files(self) -> Outcome:
        """Compare the files of wheel and sdist with those that git tracks."""
        command = [sys.executable, "-m", "check_wheel_contents", str(self.wheel)]
        # W002: empty files are equal, and a sample of evaluation is a part of another one
        environments.run([*command, "--ignore", "W002"], self.work)
        _refuse(archives.problems_of_files(*self.names))
        return Outcome(f"{len(self.names[0])} in the wheel, {len(self.names[1])} in the sdist")

    def check_licences(self) -> Outcome:
        """Check that licences, notices and attributions are in wheel and sdist."""
        _refuse(archives.problems_of_licences(*self.names))
        return Outcome("licence, notice and attributions in wheel and sdist")

    def check_size(self) -> Outcome:
        """Compare the sizes of wheel and sdist with their limits."""
        limits = {
            self.wheel: archives.MOST_WHEEL_BYTES,
            self.sdist: archives.MOST_SDIST_BYTES,
        }
        _refuse([each for path, most in limits.items() for each in _sized(path, most)])
        text = f"at most {archives.MOST_WHEEL_BYTES // 10**6} MB; in the wheel, largest: "
        return Outcome(text + archives.largest(self.wheel), self.wheel.stat().st_size)

    def check_sdist(self) -> Outcome:
        """Build the wheel from the sdist, and compare it with the wheel of the repository."""
        target = self.work / "from-sdist"
        shutil.rmtree(target, ignore_errors=True)
        with tarfile.open(self.sdist) as archive:
            archive.extractall(target, filter="data")
        (source,) = target.iterdir()
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target / "dist")]
        environments.run([*command, str(source)], self.work)
        _refuse(archives.differences(self.wheel, _only(target / "dist", "*.whl")))
        shutil.rmtree(target)
        return Outcome("its wheel has the same contents")

    def install(self) -> Outcome:
        """Install the wheel in an empty environment."""
        pins = ("-c", str(ROOT / "constraints.txt"))
        plain = environments.create(self.plain.folder, pip_options=pins)
        before = plain.size()
        plain.install(*self.torch_options, "torch")
        plain.install(str(self.wheel))
        environments.run([str(plain.python), "-m", "pip", "check"], self.work)
        return Outcome("plain wheel, all dependencies fit", plain.size() - before)

    @property
    def plain(self) -> Environment:
        """Environment with the wheel alone."""
        return Environment(self.work / "plain")


def tested_pythons(root: Path) -> list[str]:
    """Return the versions of Python in the workflow of continuous integration."""
    workflow = yaml.safe_load((root / WORKFLOW).read_text(encoding="utf-8"))
    found: list[str] = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    return found


def chosen_extras(names: str | None) -> list[str]:
    """Return the extras to check.

    Args:
        names: names with commas, "none", or None for all.

    Raises:
        ReleaseError: for an unknown name, and for an extra without a test.
    """
    if missing := extras.declared(ROOT) ^ set(extras.EXTRAS):
        raise ReleaseError(
            f"{', '.join(sorted(missing))}: in pyproject.toml or in tests/release/extras.py alone; "
            "write each extra in both"
        )
    if names is None:
        return list(extras.EXTRAS)
    chosen = [] if names == "none" else names.split(",")
    if unknown := set(chosen) - set(extras.EXTRAS):
        raise ReleaseError(f"no extra {min(unknown)!r}; there are {', '.join(extras.EXTRAS)}")
    return chosen


def check(work: Path, *, torch_options: str = "", names: str | None = None) -> int:
    """Run all steps, print a line for each, and return the exit code.

    Args:
        work: folder of the check.
        torch_options: options of pip for PyTorch, as in the Makefile.
        names: extras with commas, "none", or None for all.
    """
    work.mkdir(parents=True, exist_ok=True)
    release = Release(work.resolve(), tuple(shlex.split(torch_options)))
    report = Report()
    chosen: list[str] = []

    def choose() -> Outcome:
        chosen.extend(chosen_extras(names))
        return Outcome(f"{len(chosen)} of {len(extras.EXTRAS)}: {', '.join(chosen) or 'none'}")

    report.step("version", release.check_version)
    report.step("changelog", release.check_changelog)
    report.step("extras", choose)
    if not report.step("build", release.build):
        return report.finish()
    report.step("metadata", release.check_metadata)
    report.step("files", release.check_files)
    report.step("licences", release.check_licences)
    report.step("size", release.check_size)
    report.step("sdist", release.check_sdist)
    if not report.step("install", release.install):
        return report.finish()
    folder = release.work / "empty"
    report.step("smoke", lambda: extras.check_plain(release.plain, folder, ROOT))
    for name in chosen:
        report.step(
            f"extra {name}",
            lambda name=name: extras.check(  # type: ignore[misc]
                name,
                release.wheel,
                below=release.plain,
                work=release.work,
            ),
        )
    return report.finish()


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ReleaseError(f"{folder} has {len(found)} files {pattern}, expected one")
    return found[0]


def _sized(path: Path, most: int) -> list[str]:
    return archives.problems_of_size(path, most)


def _refuse(problems: list[str]) -> None:
    """Raise an error with all problems, if there are any."""
    if problems:
        raise ReleaseError("; ".join(problems))
