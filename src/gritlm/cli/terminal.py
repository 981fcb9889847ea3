"""The only way to stdout: what documents and models contain cannot control the terminal.

On a terminal control characters are printed as escapes. In a pipe or a file stdout is data, and
stays as it is. Messages on stderr are escaped everywhere; see :mod:`gritlm.cli.logs`.
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
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def has_colours() -> bool:
    """Whether stdout shows colours: a terminal that can, and no ``NO_COLOR``."""
    console = _console(StringIO(), wrap=True)
    return console.color_system is not None and not console.no_color


def text(value: object, style: str = "") -> Text:
    """Return a cell or a line for :func:`draw`: no markup, no control characters."""
    from rich.text import Text

    return Text(printable(str(value)), style)


def draw(*parts: RenderableType, wrap: bool = True) -> None:
    """Draw tables and lines on stdout.

    Args:
        wrap: break lines at the width of the terminal; outside of one they are never broken.
    """
    drawn = StringIO()  # rich would end the program when the reader of stdout has left
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
