"""The exceptions of gritlm. All of them can be caught as :class:`GritLMError`.

::

    GritLMError
    ├── InputError (ValueError)            a value handed in cannot be used
    │   ├── CacheMismatchError             key/value state made by another model
    │   ├── rag.store.problems: StoreFullError, StoreLockedError, IndexDamagedError
    │   └── serve.problems.TooLongError    a prompt that the server has no room for
    ├── UnknownArgumentError (TypeError)   a keyword nobody reads
    ├── ModelError (RuntimeError)          a model that cannot be loaded or is refused
    │   └── AttentionError                 its attention cannot be made to look both ways
    ├── ModeError (RuntimeError)           the model was loaded for the other job
    ├── DownloadError (RuntimeError)       weights that cannot be fetched or kept
    ├── TrainingError (RuntimeError)       a training run that cannot go on
    ├── MissingExtraError (ImportError)    an optional dependency that is not installed
    ├── serve.problems: OverloadedError, DrainingError    a server that takes nothing more
    ├── evaluation.unreachable.DataUnreachableError    a task whose data cannot be fetched
    └── rag.lance.IndexFailedError         an index that cannot be read or written
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

from gritlm.distribution import install_hint


class GritLMError(Exception):
    """Base of every error that gritlm raises on purpose."""


class InputError(GritLMError, ValueError):
    """A value handed in cannot be used; the message says which, and what would be right."""


class CacheMismatchError(InputError):
    """Key/value state handed to a model that did not make it."""


class UnknownArgumentError(GritLMError, TypeError):
    """A keyword argument that nothing would read."""


class ModelError(GritLMError, RuntimeError):
    """A checkpoint that cannot be loaded, or a model that is refused."""


class AttentionError(ModelError):
    """A decoder whose attention cannot be made to look both ways: it writes and does not embed."""


class ModeError(GritLMError, RuntimeError):
    """The model was loaded for the other job."""


class DownloadError(GritLMError, RuntimeError):
    """Weights that cannot be fetched, checked or kept."""


class TrainingError(GritLMError, RuntimeError):
    """A training run that cannot go on: no numbers, a full disk, a process that is gone."""


class MissingExtraError(GritLMError, ImportError):
    """An optional dependency is needed; the message names the extra that brings it."""


def require_libraries(names: Iterable[str], *, what: str, extra: str) -> None:
    """Refuse to begin without a library.

    Args:
        what: needs them, as the beginning of a sentence: ``serving needs``.

    Raises:
        MissingExtraError: naming those that are missing and the extra that brings them.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{what} {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed; {install_hint(extra)}"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when a known word is near, else the list of known words."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def choice(value: object, known: Iterable[str], *, name: str) -> str:
    """``value`` if it is one of ``known``.

    Raises:
        InputError: naming the argument, what came and what was expected.
    """
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    raise InputError(f"{name}={value!r} is unknown; expected one of {', '.join(known)}")
