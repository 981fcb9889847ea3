"""Extras of the package, and the test that each of them passes in an environment of its own."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.release import environments
from tests.release.environments import Environment
from tests.release.report import Outcome

SMOKE = Path(__file__).with_name("smoke.py")


@dataclass(frozen=True)
class Extra:
    """Way in which an extra is tested.

    Attributes:
        needs: extras that its commands need too.
        is_pinned: whether the pins of constraints.txt hold for it.
        is_run: whether it is installed and run; if not, pip resolves it only.
    """

    needs: tuple[str, ...] = ()
    is_pinned: bool = True
    is_run: bool = True


EXTRAS = {
    "adapt": Extra(needs=("rag", "train", "eval")),
    "bench": Extra(),
    "cli": Extra(),
    "client": Extra(needs=("rag", "serve")),
    "compiled": Extra(),
    "dev": Extra(is_run=False),  # the environment of `make test`
    "docling": Extra(is_pinned=False),
    "docs": Extra(),
    "eval": Extra(needs=("rag",)),
    "gpu": Extra(),
    "grammar": Extra(),
    "haystack": Extra(needs=("rag",)),
    "langchain": Extra(needs=("rag",)),
    "langchain-tests": Extra(),
    "llama-index": Extra(needs=("rag",)),
    "media": Extra(),
    "notebooks": Extra(),
    "office": Extra(needs=("rag",)),
    "otel": Extra(needs=("serve",)),
    "pages": Extra(needs=("rag",)),
    "postgres": Extra(needs=("rag",)),
    "qdrant": Extra(needs=("rag",)),
    "rag": Extra(),
    "release": Extra(),
    "scale": Extra(),
    "serve": Extra(),
    "train": Extra(),
}


def declared(root: Path) -> set[str]:
    """Return the extras of pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def check_plain(environment: Environment, folder: Path, root: Path) -> Outcome:
    """Run the test of the wheel without extras.

    Args:
        environment: environment with the wheel.
        folder: folder for its files, which is emptied.
        root: folder of the repository, for the texts of its examples.
    """
    command = environment.folder / "bin" / "gritlm"
    version = environments.run([str(command), "--version"], _emptied(folder)).strip()
    _smoke(environment, "plain", folder, root)
    return Outcome(f"{version}: info, embed, search, generate with the default model")


def check(name: str, wheel: Path, *, below: Environment, work: Path) -> Outcome:
    """Install an extra on top of the plain wheel, and run its test.

    Args:
        name: name of the extra.
        wheel: the wheel that is installed below.
        below: environment with the wheel alone.
        work: folder for environment and files.
    """
    extra = EXTRAS[name]
    root = SMOKE.parents[2]
    pins = ("-c", str(root / "constraints.txt")) if extra.is_pinned else ()
    own = environments.create(
        work / "environment",
        pip_options=(*pins, "--find-links", str(wheel.parent)),
        below=below,
    )
    before = own.size()
    distribution, version = wheel.name.split("-")[:2]
    requirement = f"{distribution}[{','.join((name, *extra.needs))}]=={version}"
    if not extra.is_run:
        own.install("--dry-run", requirement)
        return Outcome("resolved by pip")
    own.install(requirement)
    size = own.size() - before
    _smoke(own, name, work / "empty", root)
    shutil.rmtree(own.folder)
    return Outcome("with " + ", ".join(extra.needs) if extra.needs else "ran", size)


def _smoke(environment: Environment, name: str, folder: Path, root: Path) -> None:
    """Run a test from an empty folder, with the copy of the script elsewhere."""
    script = folder.with_name("smoke.py")
    _emptied(folder)
    shutil.copy(SMOKE, script)
    # -I keeps the folder of the script, the current one and the user's packages off the path
    words = ["-I", str(script), name, str(root / "examples")]
    environments.run([str(environment.python), *words], folder)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
