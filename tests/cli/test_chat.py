"""``gritlm chat``: history, commands, ctrl-C, from a pipe and at a terminal."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Iterator

import pytest

from gritlm.cli.commands.chat import Conversation

FEW = ("--max-new-tokens", "6")


@pytest.fixture
def conversation(lm) -> Conversation:
    return Conversation(lambda messages: lm.chat(messages, stream=True, max_new_tokens=6))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_each_line_of_a_pipe_is_a_turn_and_the_history_is_kept(run_model, lm):
    result = run_model("chat", *FEW, stdin="Hello\n\nAnd then?\n")
    first = lm.chat("Hello", max_new_tokens=6)
    second = lm.chat([user("Hello"), assistant(first), user("And then?")], max_new_tokens=6)
    assert result.exit_code == 0
    assert result.stdout == f"{first}\n{second}\n"
    assert result.stderr == ""


def test_reset_forgets_the_history(run_model, lm):
    result = run_model("chat", *FEW, stdin="Hello\n/reset\nAnd then?\n")
    expected = [lm.chat(text, max_new_tokens=6) for text in ("Hello", "And then?")]
    assert result.stdout == "".join(f"{answer}\n" for answer in expected)


def test_system_sets_and_clears_the_system_text(run_model, lm):
    result = run_model("chat", *FEW, stdin="/system Be brief.\nHello\n/reset\n/system\nHello\n")
    system = {"role": "system", "content": "Be brief."}
    first = lm.chat([system, user("Hello")], max_new_tokens=6)
    assert result.stdout == f"{first}\n{lm.chat('Hello', max_new_tokens=6)}\n"


def test_exit_ends_the_conversation(run_model, lm):
    result = run_model("chat", *FEW, stdin="Hello\n/exit\nnever asked\n")
    assert result.exit_code == 0
    assert result.stdout == lm.chat("Hello", max_new_tokens=6) + "\n"


def test_commands_answer_on_stderr_only(run_model):
    result = run_model("chat", *FEW, stdin="/help\n/nonsense\n")
    assert result.stdout == ""
    assert "/reset" in result.stderr
    assert "there is no command /nonsense" in result.stderr


def test_an_error_ends_a_piped_conversation(error_of, model_options):
    assert "4096" in error_of("chat", *model_options, stdin="bread " * 4100 + "\n")


def test_a_turn_that_is_not_utf8_is_named_by_its_line(error_of, model_options):
    assert error_of("chat", *model_options, stdin=b"/help\ncaf\xe9\n").startswith("stdin:2: byte 4")


def test_a_stopped_answer_stays_in_the_history_as_far_as_it_came(lm, capsys):
    def stopped_after_three(messages: list[dict[str, str]]) -> Iterator[str]:
        pieces = lm.chat(messages, stream=True, max_new_tokens=40)
        for _ in range(3):
            yield next(pieces)
        raise KeyboardInterrupt

    conversation = Conversation(stopped_after_three)
    assert conversation.hear("Hello")
    shown = capsys.readouterr()
    said = shown.out.removesuffix("\n")
    assert lm.chat("Hello", max_new_tokens=40).startswith(said)
    assert conversation.turns == [user("Hello"), assistant(said)]
    assert shown.err == "(stopped)\n"


def test_a_turn_stopped_before_its_answer_is_forgotten(capsys):
    def stopped_at_once(messages: list[dict[str, str]]) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    conversation = Conversation(stopped_at_once)
    assert conversation.hear("Hello")
    assert conversation.turns == []


def test_a_turn_that_fails_is_forgotten(conversation: Conversation):
    with pytest.raises(ValueError, match="4096"):
        conversation.hear("bread " * 4100)
    assert conversation.turns == []


def test_ctrl_c_stops_the_answer_and_a_second_one_leaves(start, model_options):
    process = start(["chat", *model_options, "--max-new-tokens", "3900"])
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert process.stdout.read(1)  # the answer has begun
    process.send_signal(signal.SIGINT)
    stopped = process.stderr.readline()
    while stopped and stopped != b"(stopped)\n":
        stopped = process.stderr.readline()
    assert stopped == b"(stopped)\n"
    assert process.poll() is None
    time.sleep(0.2)  # it listens again
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_at_a_terminal_an_error_does_not_end_the_conversation_but_ctrl_d_does(start, model_options):
    ours, theirs = pty.openpty()
    process = start(["chat", *model_options, *FEW], stdin=theirs, stdout=theirs)
    os.close(theirs)
    for _ in range(3):  # the history of the third turn is longer than the model takes
        _read_until(ours, b"> ")
        os.write(ours, b"~" * 1500 + b"\n")
    _read_until(ours, b"> ")
    os.write(ours, b"\x04")
    stderr = process.stderr.read().decode()
    assert process.wait(timeout=60) == 0
    assert "/help lists the commands" in stderr
    assert stderr.count("gritlm: error: ") == 1
    assert "4096" in stderr
    assert "Traceback" not in stderr


def _read_until(descriptor: int, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += os.read(descriptor, 4096)
