"""Folders and names -> tasks, refused before anything is loaded where they cannot be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from gritlm import config
from gritlm.errors import InputError
from gritlm.evaluation import harnesses
from gritlm.evaluation.results import Half
from gritlm.evaluation.tasks import layouts
from gritlm.evaluation.tasks.task import Task

ABOUT = "task.toml"

# Where a name that is no local task is looked up: half -> all names its harness knows.
Hubs = Mapping[Half, Callable[[], Iterable[str]]]


@dataclass(frozen=True)
class ChosenTask:
    """A task to measure.

    Attributes:
        task: what its half is handed: a local task, or a name that the harness knows.
    """

    name: str
    half: Half
    task: Task | str


@dataclass(frozen=True)
class _About:
    """``task.toml`` as it is written; what it leaves out follows from the files."""

    name: str = ""
    half: Half | None = None
    type: str = ""
    description: str = ""
    language: str = "eng"
    instruction: str = ""
    passage_instruction: str = ""
    source: str = ""
    licence: str = ""


def local(folder: Path) -> list[Task]:
    """The tasks in a folder, at any depth, by name; the folder may be a task itself.

    Raises:
        InputError: when there is none, two have one name, or one has the wrong layout.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; expected one with folders of tasks")
    found = sorted((_task(each) for each in _folders(folder)), key=lambda task: task.name.lower())
    if not found:
        raise InputError(
            f"{folder}: no task in this folder; expected folders with {ABOUT}, or with the files "
            f"of a task ({', '.join(sorted(layouts.FILES))})"
        )
    for one, other in pairwise(found):
        if one.name == other.name:
            raise InputError(f"{other.folder}: {one.folder} is called {one.name!r} too; rename one")
    return found


def chosen(task: Task) -> ChosenTask:
    return ChosenTask(task.name, task.half, task)


def named(names: Sequence[str], tasks: Sequence[Task], hubs: Hubs) -> list[ChosenTask]:
    """Each name as a task: of the local ones, else one of mteb, else one of lm-eval.

    Raises:
        InputError: for a name nobody knows, with the nearest ones.
    """
    known: dict[Half, set[str]] = {}
    by_name = {task.name: task for task in tasks}
    found = []
    for name in dict.fromkeys(names):  # a name given twice is measured once
        if name in by_name:
            found.append(chosen(by_name[name]))
            continue
        half = _home(name, hubs, known)
        if half is None:
            raise InputError(_unknown(name, by_name, known))
        found.append(ChosenTask(name, half, name))
    return found


def _home(name: str, hubs: Hubs, known: dict[Half, set[str]]) -> Half | None:
    """The first harness that knows a name; what each knows is read once, and only when needed."""
    for half, names in hubs.items():
        if half not in known:
            known[half] = set(names())  # of lm-eval, thousands of files
        if name in known[half]:
            return half
    return None


def _folders(folder: Path) -> Iterable[Path]:
    if (folder / ABOUT).is_file() or any((folder / file).is_file() for file in layouts.FILES):
        yield folder
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.name.startswith((".", "_")):
            yield from _folders(inner)


def _task(folder: Path) -> Task:
    file = folder / ABOUT
    about = config.read(file, _About) if file.is_file() else _About()
    kind = about.type or layouts.told(folder)
    layouts.check(folder, kind)
    half = layouts.half_of(kind)
    if about.half not in (None, half):
        raise InputError(f"{file}: half = {about.half!r}; a task of type {kind!r} is in {half!r}")
    found = {"name": about.name or folder.resolve().name, "half": half, "type": kind}
    return Task(folder=folder, **vars(about) | found)


def _unknown(name: str, local: Iterable[str], known: Mapping[Half, set[str]]) -> str:
    words = {word.lower(): word for words in (*known.values(), local) for word in sorted(words)}
    near = [words[word] for word in get_close_matches(name.lower(), words, n=3)]
    places = ["no local task", *(harnesses.NAMES[half] for half in known)]
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else "nothing is near it"
    return f"unknown task {name!r}: {' and nothing of '.join(places)} has this name; {hint}"
