"""Virtual environments of the check: one with the plain wheel, one on top of it for each extra."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.release.report import ReleaseError

_LAST_LINES = 3  # of the output of a command that failed
# Of the process that runs the check: they would bring its packages into the environment.
_REMOVED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_REQUIRE_VIRTUALENV")


@dataclass(frozen=True)
class Environment:
    """Virtual environment in a folder, and the options that pip takes in it.

    Attributes:
        folder: folder of the environment.
        pip_options: options of ``pip install``, for example constraints.
    """

    folder: Path
    pip_options: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """Interpreter of the environment."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Folder of the installed packages."""
        (found,) = (self.folder / "lib").glob("python3*/site-packages")
        return found

    def install(self, *words: str) -> None:
        """Install requirements with pip; further options may stand between them."""
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check"]
        run([*pip, "install", "-q", *self.pip_options, *words], self.folder)

    def size(self) -> int:
        """Return the bytes of the installed packages."""
        return sum(path.stat().st_size for path in self.packages.rglob("*") if path.is_file())


def create(
    folder: Path,
    *,
    pip_options: Sequence[str] = (),
    below: Environment | None = None,
    has_pip: bool = True,
) -> Environment:
    """Create an empty environment.

    Args:
        folder: its folder, which is replaced.
        pip_options: options of ``pip install``.
        below: environment whose packages are seen too. Packages that are installed on top of it
            leave it as it was, and hide its versions. Its pip is used.
        has_pip: whether pip is installed, without an environment below.
    """
    shutil.rmtree(folder, ignore_errors=True)
    words = [] if has_pip and below is None else ["--without-pip"]
    run([sys.executable, "-m", "venv", *words, str(folder)], folder.parent)
    made = Environment(folder, tuple(pip_options))
    if below is not None:
        (made.packages / "below.pth").write_text(f"{below.packages}\n", encoding="utf-8")
    return made


def run(command: Sequence[str], folder: Path, *, seconds: float = 900) -> str:
    """Run a command in a folder, without the packages of this process, and return its output.

    Args:
        command: program and arguments.
        folder: working folder.
        seconds: time after which it has failed.

    Raises:
        ReleaseError: with its last lines, if it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _REMOVED}
    environment["PYTHONNOUSERSITE"] = "1"
    shown = " ".join(Path(word).name if word.startswith("/") else word for word in command)
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ReleaseError(f"{shown}: no end within {seconds:.0f} s") from None
    except OSError as error:
        raise ReleaseError(f"{shown}: {error.strerror}") from None
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        last = " | ".join(lines[-_LAST_LINES:]) or "no output"
        raise ReleaseError(f"{shown} ended with {done.returncode}: {last}")
    return done.stdout
