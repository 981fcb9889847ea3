"""``gritlm chat``: a conversation in the terminal, or one user message per line of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import import_module

from gritlm.cli import files, logs, terminal
from gritlm.cli.options import ModelOptions, SamplingOptions
from gritlm.errors import GritLMError

HELP = """\
/system TEXT  set the system message; without TEXT: remove it
/reset        forget the conversation
/exit         exit (also ctrl-D)
/help         show this list
ctrl-C        stop the answer; at the prompt: exit"""

Message = dict[str, str]


def chat(*, sampling: SamplingOptions, model: ModelOptions) -> None:
    """Chat with the model, which remembers the conversation."""
    lm = model.load(mode="generative")

    def answer(messages: list[Message]) -> Iterable[str]:
        return lm.chat(messages, stream=True, **sampling.arguments())

    conversation = Conversation(answer)
    if files.stdin_is_piped():
        for line in _piped_lines():
            if not conversation.hear(line):
                return
        return
    logs.note(f"{lm.source}; /help lists the commands")
    for line in _typed_lines():
        try:
            if not conversation.hear(line):
                return
        except GritLMError as error:  # a pipe stops at an error
            logs.write_message("error", logs.describe(error))


class Conversation:
    """A conversation with its system message and its turns.

    Args:
        answer: function that streams the answer to a list of messages.
    """

    def __init__(self, answer: Callable[[list[Message]], Iterable[str]]) -> None:
        self._answer = answer
        self.system = ""
        self.turns: list[Message] = []

    def hear(self, line: str) -> bool:
        """Answer a message or run a command; return False when the conversation is over."""
        line = line.strip()
        if line.startswith("/"):
            return self._obey(line)
        if line:
            self._reply(line)
        return True

    def _obey(self, line: str) -> bool:
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return False
        if command == "/reset":
            self.turns = []
            logs.note("(the conversation is forgotten)")
        elif command == "/system":
            self.system = rest.strip()
            logs.note("(the system text is set)" if self.system else "(there is no system text)")
        elif command == "/help":
            logs.note(HELP)
        else:
            logs.note(f"there is no command {command}\n{HELP}")
        return True

    def _reply(self, text: str) -> None:
        system = [{"role": "system", "content": self.system}] if self.system else []
        turn = {"role": "user", "content": text}
        pieces: list[str] = []
        try:
            for piece in self._answer([*system, *self.turns, turn]):
                pieces.append(piece)
                terminal.write(piece)
        except KeyboardInterrupt:
            terminal.write("\n")
            logs.note("(stopped)")
        else:
            terminal.write("\n")
        if answer := "".join(pieces):
            # A turn without an answer is dropped: templates require alternating roles.
            self.turns += [turn, {"role": "assistant", "content": answer}]


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield files.decode(line, f"stdin:{number}")


def _typed_lines() -> Iterator[str]:
    """Yield lines from the keyboard until ctrl-D, with line editing if readline is available."""
    with suppress(ImportError):
        import_module("readline")  # input() uses it once it is imported
    while True:
        try:
            yield _ask("> ")
        except (EOFError, KeyboardInterrupt) as leaving:
            logs.note("")  # the shell's prompt begins on a line of its own
            if isinstance(leaving, KeyboardInterrupt):
                raise
            return


def _ask(prompt: str) -> str:
    if terminal.is_terminal():
        return input(prompt)
    logs.write(prompt)  # stdout is a file, which gets the answers alone
    return input()
