"""The program: its commands, its global options, and every way out of it.

Exit codes: 0 done, 1 something stored is damaged (``store verify``), 2 an error (one line on
stderr), 3 nothing could be measured (``eval``), 130 ctrl-C, 141 the reader of a pipe left.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gritlm import __version__
from gritlm.cli import logs, terminal
from gritlm.cli.commands import (
    ask,
    chat,
    data,
    embed,
    generate,
    index,
    info,
    mine,
    pull,
    search,
    serve,
    store,
    train,
)
from gritlm.cli.commands import eval as evaluation
from gritlm.cli.spread import spread

ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

COMMANDS = (
    embed.embed,
    search.search,
    index.index,
    ask.ask,
    chat.chat,
    generate.generate,
    serve.serve,
    train.train,
    mine.mine,
    evaluation.eval_,
    pull.pull,
    info.info,
)
GROUPS = (
    ("data", "Look at training data.", (data.check,)),
    (
        "store",
        "Look after a store of documents.",
        (
            store.list_,
            store.delete,
            store.stats,
            store.verify,
            store.gc,
            store.rebuild,
        ),
    ),
)


def create_app() -> typer.Typer:
    """The typer application with all commands."""
    app = typer.Typer(
        name="gritlm",
        cls=Program,
        help="One language model that embeds, searches and writes.",
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(spread(_root, level=logging.WARNING))
    for command in COMMANDS:
        app.command(command.__name__.rstrip("_"))(spread(command))  # eval is a word of Python
    for name, about, commands in GROUPS:
        group = typer.Typer(help=about, invoke_without_command=True)
        group.callback()(_help)
        for member in commands:
            group.command(member.__name__.rstrip("_"))(spread(member))
        app.add_typer(group, name=name)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.write(f"gritlm {__version__}\n")
        raise typer.Exit


def _root(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    del version  # its callback has done it
    _help(context)


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        terminal.write(f"{context.get_help()}\n")


class Program(TyperGroup):
    """The command group, with one place where errors become a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with _leaving_quietly():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def main(self, *args: Any, **extra: Any) -> Any:
        _never_fail_on_a_character()
        logs.escape_warnings()
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except KeyboardInterrupt:
            code = INTERRUPTED
        except typer.Abort as error:  # what typer makes of EOFError and, when old, of ctrl-C
            code = _report(error.__cause__) if isinstance(error.__cause__, EOFError) else 130
        except Exception as error:
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException) -> int:
    # The level tells whether --debug was given, on whichever side of the command it stood.
    logging.getLogger(logs.NAME).debug("the way to this error", exc_info=error)
    logs.say("error", logs.describe(error))
    return ERROR


@contextmanager
def _leaving_quietly() -> Iterator[None]:
    """Nobody reads stdout any more (``| head -1``): end without a word."""
    try:
        yield
    except BrokenPipeError:
        with suppress(OSError):  # what is left goes nowhere when the interpreter flushes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def _never_fail_on_a_character() -> None:
    """A terminal that lacks a character shows a question mark instead of stopping the answer."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
