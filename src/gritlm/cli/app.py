"""The typer application: commands, global options, error messages and exit codes.

Exit codes: 0 success, 1 damaged data in a store (``store verify``), 2 an error (one line on
stderr), 3 nothing could be measured (``eval``), 130 ctrl-C, 141 the reader of a pipe has closed it.
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
    adapt,
    ask,
    chat,
    data,
    embed,
    export,
    generate,
    harness,
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
    adapt.adapt,
    evaluation.eval_,
    export.export,
    pull.pull,
    info.info,
)
PASSED_ON = {"lm-eval": harness.lm_eval, "mteb": harness.mteb}  # with options of their own
GROUPS = (
    ("data", "Check training data.", (data.check,)),
    (
        "store",
        "Inspect and maintain a document store.",
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
    """Return the typer application with all commands."""
    app = typer.Typer(
        name="gritlm",
        cls=Program,
        help="Embed, search and generate with a single language model.",
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(spread(_root, level=logging.WARNING))
    for command in COMMANDS:
        app.command(command.__name__.rstrip("_"))(spread(command))  # eval shadows a builtin
    for name, passed in PASSED_ON.items():
        app.command(name, add_help_option=False, context_settings=harness.ANY_OPTION)(passed)
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
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    del version  # printed by its callback
    _help(context)


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        terminal.write(f"{context.get_help()}\n")


class Program(TyperGroup):
    """The command group, which turns errors into a message of one line and an exit code."""

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
        except (
            typer.Abort
        ) as error:  # raised by typer for EOFError and, in old versions, for ctrl-C
            code = _report(error.__cause__) if isinstance(error.__cause__, EOFError) else 130
        except Exception as error:
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException) -> int:
    # --debug sets the log level, whether it is given before or after the command.
    logging.getLogger(logs.NAME).debug("traceback of this error", exc_info=error)
    logs.write_message("error", logs.describe(error))
    return ERROR


@contextmanager
def _leaving_quietly() -> Iterator[None]:
    """End without a message when the reader of stdout has closed it (``| head -1``)."""
    try:
        yield
    except BrokenPipeError:
        with suppress(OSError):  # the interpreter flushes the rest of the output to /dev/null
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def _never_fail_on_a_character() -> None:
    """Print a question mark for a character that the encoding of stdout lacks."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
