"""Output on stderr: log lines, notes and error messages."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from gritlm.errors import GritLMError, one_line
from gritlm.printable import PrintableFormatter, printable

NAME = "gritlm"
_FORMAT_WARNING = warnings.formatwarning


class _OneHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler of the CLI, which a second call of :func:`configure` replaces."""


def configure(level: int) -> None:
    """Send the log lines of gritlm with at least this level to stderr."""
    logger = logging.getLogger(NAME)
    for handler in [old for old in logger.handlers if isinstance(old, _OneHandler)]:
        logger.removeHandler(handler)
    handler = _OneHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger.addHandler(handler)
    logger.setLevel(level)


class _Lines(PrintableFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"gritlm: {record.levelname.lower()}: {super().format(record)}"


def escape_warnings() -> None:
    """Escape the warnings of Python and of libraries, which quote files and models."""
    warnings.formatwarning = _format_warning
    if logging.lastResort is not None:  # prints for libraries that set up no logging
        logging.lastResort.setFormatter(PrintableFormatter(one_line=False))


def _format_warning(*args: Any, **others: Any) -> str:
    return printable(_FORMAT_WARNING(*args, **others))


def is_quiet() -> bool:
    """Return whether --quiet was given: errors only, no progress bars and no notes."""
    return not logging.getLogger(NAME).isEnabledFor(logging.WARNING)


def progress() -> bool | None:
    """Return the value for ``show_progress_bar``: False with --quiet, else None (automatic)."""
    return False if is_quiet() else None


def hush_libraries() -> None:
    """Disable transformers' progress bars outside of a terminal, and its warnings if --quiet."""
    from transformers.utils import logging as transformers_logging

    for handler in logging.getLogger("transformers").handlers:
        handler.setFormatter(
            PrintableFormatter(one_line=False)
        )  # its messages quote files of the model
    if is_quiet() or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    if is_quiet():
        transformers_logging.set_verbosity_error()


def write_message(kind: str, message: str) -> None:
    """Write one line ``gritlm: kind: message`` to stderr."""
    write(f"gritlm: {kind}: {printable(message, one_line=True)}\n")


def note(message: str) -> None:
    """Write lines without a prefix to stderr, unless --quiet was given."""
    if not is_quiet():
        write(f"{message}\n")


def note_above_bar(message: str) -> None:
    """Write a line without a prefix to stderr, above a visible progress bar."""
    from tqdm import tqdm

    if not is_quiet():
        tqdm.write(printable(message), file=sys.stderr)


def write(text: str) -> None:
    """Write text to stderr without adding a line end."""
    sys.stderr.write(printable(text))
    sys.stderr.flush()


def describe(error: BaseException) -> str:
    """Return the message of an error in one line."""
    if hasattr(error, "format_message"):  # raised by typer for invalid arguments
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "gritlm"
        return f"{one_line(error.format_message(), limit=None).rstrip('.')} (see '{path} --help')"
    if isinstance(error, GritLMError):
        return one_line(error, limit=None)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    message = f"{type(error).__name__}: {one_line(error, limit=None)}"
    return f"{message} (run again with --debug to see where)"
