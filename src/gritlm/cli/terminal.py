"""Output on stdout, with the control characters of documents and models escaped.

Only a terminal gets escapes: in a pipe or a file, stdout is data and stays unchanged. Messages on
stderr are always escaped; see :mod:`gritlm.cli.logs`.
"""

from __future__ import annotations

import sys
from io import StringIO
from typing import TYPE_CHECKING

from gritlm.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text


def write(text: str) -> None:
    """Write text to stdout and flush it."""
    sys.stdout.write(printable(text) if is_terminal() else text)
    sys.stdout.flush()


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def has_colours() -> bool:
    """Return whether stdout shows colours: a capable terminal, and ``NO_COLOR`` is not set."""
    console = _console(StringIO(), wrap=True)
    return console.color_system is not None and not console.no_color


def text(value: object, style: str = "") -> Text:
    """Return a cell or a line for :func:`draw`, without markup and control characters."""
    from rich.text import Text

    return Text(printable(str(value)), style)


def draw(*parts: RenderableType, wrap: bool = True) -> None:
    """Print tables and lines on stdout.

    Args:
        *parts: the tables and lines, from top to bottom.
        wrap: break lines at the width of the terminal; without a terminal they are never broken.
    """
    drawn = StringIO()  # rich exits the program when stdout is closed
    console = _console(drawn, wrap=wrap)
    for part in parts:
        console.print(part)
    sys.stdout.write(drawn.getvalue())
    sys.stdout.flush()


def _console(drawn: StringIO, *, wrap: bool) -> Console:
    from rich.console import Console

    return Console(
        file=drawn,
        force_terminal=is_terminal() or None,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=not (wrap and is_terminal()),
    )
