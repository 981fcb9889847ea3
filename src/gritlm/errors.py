"""The exceptions of gritlm. All of them can be caught as :class:`GritLMError`.

::

    GritLMError
    ├── InputError (ValueError)            an argument or a file that cannot be used
    │   ├── CacheMismatchError             a KV block of another model
    │   ├── rag.kvstore.errors: StoreFullError, StoreLockedError, IndexDamagedError
    │   └── serve.engine.errors: TooManyError, TooManyTokensError, PromptTooLongError
    ├── UnknownArgumentError (TypeError)   an unknown keyword argument
    ├── ModelError (RuntimeError)          a model that cannot be loaded or is refused
    │   └── AttentionError                 a model without bidirectional attention
    ├── ModeError (RuntimeError)           a model loaded in another mode
    ├── DownloadError (RuntimeError)       weights that cannot be downloaded or stored
    ├── TrainingError (RuntimeError)       a training run that cannot continue
    ├── MissingExtraError (ImportError)    an optional dependency that is not installed
    ├── serve.engine.errors: OverloadedError, DrainingError    a server that refuses new requests
    ├── adapt.rows.writers.EndpointError    an endpoint that writes no questions
    ├── evaluation.harnesses.DataUnreachableError    a task whose data cannot be downloaded
    └── rag.index.passage_table.IndexFailedError    an index that cannot be read or written
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from gritlm.distribution import install_hint
from gritlm.printable import printable


class GritLMError(Exception):
    """Base of every error that gritlm raises on purpose."""


class InputError(GritLMError, ValueError):
    """An argument or a file that cannot be used; the message has the value and the expected one."""


class CacheMismatchError(InputError):
    """A KV block passed to a model that did not compute it."""


class UnknownArgumentError(GritLMError, TypeError):
    """An unknown keyword argument."""


class ModelError(GritLMError, RuntimeError):
    """A checkpoint that cannot be loaded, or a model that is refused."""


class AttentionError(ModelError):
    """A decoder without bidirectional attention, which can generate but not embed."""


class ModeError(GritLMError, RuntimeError):
    """A model loaded in a mode that excludes the called method."""


class DownloadError(GritLMError, RuntimeError):
    """Weights that cannot be downloaded, verified or stored."""


class TrainingError(GritLMError, RuntimeError):
    """A training run that cannot continue: non-finite values, a full disk, a lost process."""


class MissingExtraError(GritLMError, ImportError):
    """A missing optional dependency; the message names the extra that installs it."""


def require_libraries(names: Iterable[str], *, what: str, extra: str) -> None:
    """Raise an error unless all libraries are installed.

    Args:
        names: import names of the libraries.
        what: beginning of the message, with its verb: ``serving needs``.
        extra: extra of gritlm that installs the libraries.

    Raises:
        MissingExtraError: for missing libraries, with the command that installs them.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{what} {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed; {install_hint(extra)}"
        )


def one_line(value: object, *, limit: int | None = 500) -> str:
    """Return an error or another untrusted value as text for a message: one escaped line.

    Args:
        value: the error or value.
        limit: number of characters after which the text is cut; None for all of it.
    """
    text = " ".join(line for each in str(value).splitlines() if (line := each.strip()))
    cut = text if limit is None or len(text) <= limit else f"{text[:limit]} ..."
    return printable(cut, one_line=True)


def first_line(error: BaseException, *, limit: int = 500) -> str:
    """Return the first line of an error's text, or its class; libraries add lines of advice.

    Args:
        error: the error.
        limit: number of characters after which the line is cut.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0], limit=limit)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, else the list of all."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def choice(value: object, known: Iterable[str], *, name: str) -> str:
    """Return ``value`` if it is one of ``known``.

    Args:
        value: the value of the argument.
        known: the allowed values.
        name: name of the argument, for the message.

    Raises:
        InputError: for another value, with the argument and the allowed values.
    """
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    raise InputError(f"{name}={value!r} is unknown; expected one of {', '.join(known)}")


def at_least_one(value: Any, *, name: str) -> int:
    """Return ``value`` if it is an integer of at least 1.

    Args:
        value: the value of the argument.
        name: name of the argument, for the message.

    Raises:
        InputError: for another value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}; expected a whole number >= 1")
    return value
