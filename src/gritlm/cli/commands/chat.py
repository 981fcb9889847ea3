"""``gritlm chat``: a conversation in the terminal, or one user turn a line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import import_module

from gritlm.cli import files, logs, terminal
from gritlm.cli.options import ModelOptions, SamplingOptions
from gritlm.errors import GritLMError

HELP = """\
/system TEXT  what the model is told before the conversation; without TEXT: nothing
/reset        forget the conversation
/exit         leave (also ctrl-D)
/help         this list
ctrl-C        stop the answer; at the prompt: leave"""

Message = dict[str, str]


def chat(*, sampling: SamplingOptions, model: ModelOptions) -> None:
    """Talk with the model; it remembers the conversation."""
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
        except GritLMError as error:  # a person can go on; a script should stop
            logs.say("error", logs.describe(error))


class Conversation:
    """What was said so far, and what to do with the next line.

    Args:
        answer: messages -> pieces of the answer to the last one.
    """

    def __init__(self, answer: Callable[[list[Message]], Iterable[str]]) -> None:
        self._answer = answer
        self.system = ""
        self.turns: list[Message] = []

    def hear(self, line: str) -> bool:
        """Answer a line or obey it; False when the conversation is over."""
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
        if said := "".join(pieces):
            # Without an answer the turn is dropped: templates want the roles to alternate.
            self.turns += [turn, {"role": "assistant", "content": said}]


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield files.decode(line, f"stdin:{number}")


def _typed_lines() -> Iterator[str]:
    """Lines from the keyboard until ctrl-D, with editing and recall where there is readline."""
    with suppress(ImportError):
        import_module("readline")  # input() uses it once it is there
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
    logs.write(prompt)  # stdout goes to a file: only answers belong there
    return input()
