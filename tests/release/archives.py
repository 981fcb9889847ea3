"""Contents of wheel and sdist: files, licences, sizes, metadata."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from tests.release.report import MEGABYTE, ReleaseError

# The wheel holds adapter and projectors (43 MB of 16-bit weights, which zip makes 37 MB).
MOST_WHEEL_BYTES = 45 * MEGABYTE
MOST_SDIST_BYTES = 60 * MEGABYTE
LARGEST = 5  # files that are listed
# Tracked files that an sdist may lack: settings of tools around the repository.
NOT_IN_SDIST = (".*", ".*/*")
_LICENCES = ("LICENSE*", "NOTICE*", "ATTRIBUTION*", "SOURCES*")
_LICENCE_FOLDERS = ("src/gritlm/lm/adapter", "src/gritlm/lm/media/projectors")  # their model cards


@dataclass(frozen=True)
class Entry:
    """File of an archive: its size in the archive in bytes, and the sha256 of its contents."""

    size: int
    digest: str


def entries(path: Path) -> dict[str, Entry]:
    """Return the files of an archive by name; the top folder of an sdist is left out."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {
                info.filename: Entry(info.compress_size, _digest(wheel.read(info)))
                for info in wheel.infolist()
                if not info.is_dir()
            }
    with tarfile.open(path) as sdist:
        return {
            str(PurePosixPath(*PurePosixPath(member.name).parts[1:])): Entry(
                member.size, _digest(opened.read())
            )
            for member in sdist
            if (opened := sdist.extractfile(member)) is not None
        }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tracked(root: Path) -> set[str]:
    """Return the paths of the files that git tracks and that exist.

    Args:
        root: folder of the repository.
    """
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{root} is no git repository; run release-check in a clone")
    return {name for name in done.stdout.split("\0") if name and (root / name).is_file()}


def problems_of_files(wheel: set[str], sdist: set[str], files: set[str]) -> list[str]:
    """List files that wheel or sdist lack, or have without being tracked.

    Args:
        wheel: names in the wheel.
        sdist: names in the sdist.
        files: tracked paths.
    """
    package = {name.removeprefix("src/") for name in files if name.startswith("src/")}
    in_wheel = {name for name in wheel if ".dist-info/" not in name}
    expected = {
        name for name in files if not any(fnmatch(name, pattern) for pattern in NOT_IN_SDIST)
    }
    generated = {"PKG-INFO", ".gitignore"}
    return [
        *_named("the wheel lacks tracked files", package - in_wheel),
        *_named("the wheel has files that git does not track", in_wheel - package),
        *_named("the sdist lacks tracked files", expected - sdist),
        *_named("the sdist has files that git does not track", sdist - files - generated),
    ]


def problems_of_licences(wheel: set[str], sdist: set[str], files: set[str]) -> list[str]:
    """List licence files and attributions that wheel or sdist lack.

    Args:
        wheel: names in the wheel.
        sdist: names in the sdist.
        files: tracked paths.
    """
    attributions = {name for name in files if _is_attribution(name)}
    licences = {name for name in attributions if "/" not in name}
    shipped = {name.split("/licenses/", 1)[1] for name in wheel if "/licenses/" in name}
    package = {name.removeprefix("src/") for name in attributions if name.startswith("src/")}
    missing = {"LICENSE", "NOTICE"} - licences
    return [
        *_named("the repository lacks", missing),
        *_named("the wheel lacks licence files", (licences - shipped) | (package - wheel)),
        *_named("the sdist lacks licence files", attributions - sdist),
    ]


def _is_attribution(name: str) -> bool:
    path = PurePosixPath(name)
    is_card = path.name == "README.md" and str(path.parent) in _LICENCE_FOLDERS
    return is_card or any(fnmatch(path.name, pattern) for pattern in _LICENCES)


def problems_of_size(path: Path, most: int) -> list[str]:
    """List the largest files of an archive that is larger than its limit in bytes."""
    size = path.stat().st_size
    if size <= most:
        return []
    return [
        f"{path.name} has {size / MEGABYTE:.1f} MB, at most {most / MEGABYTE:.0f} MB; "
        f"largest: {largest(path)}"
    ]


def largest(path: Path) -> str:
    """Return the largest files of an archive with their sizes in it."""
    found = sorted(entries(path).items(), key=lambda item: -item[1].size)[:LARGEST]
    return ", ".join(
        f"{PurePosixPath(name).name} {entry.size / MEGABYTE:.1f}" for name, entry in found
    )


def differences(one: Path, other: Path) -> list[str]:
    """List the names whose contents differ between two wheels."""
    first, second = entries(one), entries(other)
    names = {
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or first[name].digest != second[name].digest
    }
    return _named("the wheel of the sdist differs from that of the repository in", names)


def metadata(wheel: Path) -> Message:
    """Return the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


def problems_of_metadata(found: Message, *, version: str, pythons: list[str]) -> list[str]:
    """List metadata that differs from the version and the Python versions that are tested.

    Args:
        found: metadata of the wheel.
        version: version of the package.
        pythons: versions of Python in continuous integration, the oldest first.
    """
    classified = [
        match[1]
        for each in found.get_all("Classifier", [])
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each))
    ]
    expected = {
        "Version": (found["Version"], version),
        "Requires-Python": (found["Requires-Python"], f">={pythons[0]}"),
        "classifiers of Python": (classified, pythons),
        "License-Expression": (found["License-Expression"], "Apache-2.0"),
        "License-File": (sorted(found.get_all("License-File", [])), ["LICENSE", "NOTICE"]),
        "Description-Content-Type": (found["Description-Content-Type"], "text/markdown"),
    }
    return [
        f"{name} is {value!r}, expected {wanted!r}"
        for name, (value, wanted) in expected.items()
        if value != wanted
    ]


def _named(problem: str, names: set[str]) -> list[str]:
    """Return a line with the first names, or nothing without names."""
    if not names:
        return []
    shown = ", ".join(sorted(names)[:LARGEST])
    more = f" and {len(names) - LARGEST} more" if len(names) > LARGEST else ""
    return [f"{problem}: {shown}{more}"]
