"""Discovery of tasks by folder or name; their files are checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from gritlm import config
from gritlm.errors import InputError
from gritlm.evaluation import harnesses, inputs
from gritlm.evaluation.inputs import Inputs
from gritlm.evaluation.results import Kind
from gritlm.evaluation.tasks import layouts
from gritlm.evaluation.tasks.task import Task

ABOUT = "task.toml"

# Kind -> function that lists the names its harness knows, for names that are no local task. A
# mapping has the inputs of each task; a plain list has tasks of text.
Hubs = Mapping[Kind, Callable[[], Iterable[str]]]


@dataclass(frozen=True)
class ChosenTask:
    """A task to measure.

    Attributes:
        name: name of the task.
        kind: ``embedding``, ``generation``, ``rag`` or ``senses``.
        task: a local task, or a name that the harness knows.
        needs: inputs that a model must read: ``text``, ``image``, ``sound``.
    """

    name: str
    kind: Kind
    task: Task | str
    needs: Inputs = inputs.TEXT


@dataclass(frozen=True)
class _About:
    """Content of ``task.toml``; missing values follow from the files of the task."""

    name: str = ""
    half: Kind | None = None
    type: str = ""
    description: str = ""
    language: str = "eng"
    instruction: str = ""
    passage_instruction: str = ""
    source: str = ""
    licence: str = ""


def local(folder: Path) -> list[Task]:
    """Return the tasks in a folder at any depth, sorted by name; the folder may be a task itself.

    Raises:
        InputError: if there is no task, two tasks have the same name, or a task has the wrong
            layout.
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
    """Return a local task as a task to measure."""
    return ChosenTask(task.name, task.half, task, inputs.of_type(task.type))


def named(names: Sequence[str], tasks: Sequence[Task], hubs: Hubs) -> list[ChosenTask]:
    """Return the tasks of some names: local tasks first, then mteb's, then lm-eval's.

    Raises:
        InputError: for an unknown name; the message suggests similar ones.
    """
    known: dict[Kind, Mapping[str, Inputs]] = {}
    by_name = {task.name: task for task in tasks}
    found = []
    for name in dict.fromkeys(names):  # a name given twice is measured once
        if name in by_name:
            found.append(chosen(by_name[name]))
            continue
        kind = _find_kind(name, hubs, known)
        if kind is None:
            raise InputError(_unknown(name, by_name, known))
        found.append(ChosenTask(name, kind, name, known[kind][name]))
    return found


def _find_kind(name: str, hubs: Hubs, known: dict[Kind, Mapping[str, Inputs]]) -> Kind | None:
    """Return the kind of the first harness that knows a name; names are listed when needed."""
    for kind, names in hubs.items():
        if kind not in known:
            found = names()  # lm-eval reads thousands of files for this
            known[kind] = found if isinstance(found, Mapping) else dict.fromkeys(found, inputs.TEXT)
        if name in known[kind]:
            return kind
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
    task_type = about.type or layouts.guess_type(folder)
    layouts.check(folder, task_type)
    kind = layouts.kind_of(task_type)
    if about.half not in (None, kind):
        raise InputError(
            f"{file}: half = {about.half!r}; a task of type {task_type!r} is in {kind!r}"
        )
    found = {"name": about.name or folder.resolve().name, "half": kind, "type": task_type}
    return Task(folder=folder, **vars(about) | found)


def _unknown(name: str, local: Iterable[str], known: Mapping[Kind, Iterable[str]]) -> str:
    words = {word.lower(): word for words in (*known.values(), local) for word in sorted(words)}
    near = [words[word] for word in get_close_matches(name.lower(), words, n=3)]
    places = ["no local task", *(harnesses.NAMES[kind] for kind in known)]
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else "nothing is near it"
    return f"unknown task {name!r}: {' and nothing of '.join(places)} has this name; {hint}"
