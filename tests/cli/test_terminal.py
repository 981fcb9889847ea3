"""What documents, models and file names contain cannot control the terminal, in any command."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pty
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf

from gritlm.cli import logs, terminal
from gritlm.cli.app import COMMANDS, GROUPS, create_app
from gritlm.printable import printable
from tests import tiny
from tests.test_architecture import MODULES, imports

# Renames the window, turns red, clears the screen in one character, reverses, and is markup.
HOSTILE = "\x1b]0;pwn\x07\x1b[31mRED\x9b2J\u202e[red]x[/red][link=http://a.test]y[/link]"
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e")
SHOWN = r"\x1b]0;pwn\x07\x1b[31mRED\x9b2J\u202e[red]x[/red][link=http://a.test]y[/link]"
NAME = "\x1b[31m\x07\x9bname"  # for files

Terminal = Callable[..., str]


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Run a command with a terminal for stdout and stderr; everything that arrived there."""
    monkeypatch.setenv("TERM", "dumb")  # no colours of our own, so every ESC is a foreign one

    def call(*words: str, stdin: str = "") -> str:
        master, slave = pty.openpty()
        received: list[bytes] = []
        reader = threading.Thread(target=_receive, args=(master, received))
        reader.start()
        streams = {
            "stdin": io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"),
            "stdout": os.fdopen(os.dup(slave), "w", encoding="utf-8"),
            "stderr": os.fdopen(slave, "w", encoding="utf-8", errors="backslashreplace"),
        }
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit):
                create_app()(list(words), prog_name="gritlm")
            for name in ("stdout", "stderr"):
                streams[name].close()
        reader.join()
        os.close(master)
        return b"".join(received).decode("utf-8", errors="surrogateescape")

    return call


def _receive(master: int, received: list[bytes]) -> None:
    while True:
        try:
            received.append(os.read(master, 65536))
        except OSError:  # the other side is closed
            return


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model in a folder with a hostile name that answers everything with control characters.

    One coordinate of every hidden state is large, and only the token of ESC looks at it.
    """
    folder = tmp_path_factory.mktemp("models") / NAME
    made, tokenizer = tiny.model("llama", max_position_embeddings=1024), tiny.tokenizer()
    escape = tokenizer.convert_tokens_to_ids("\u011b")  # byte 0x1b in a byte-level vocabulary
    assert tokenizer.decode([escape]) == "\x1b"
    with torch.no_grad():
        made.get_input_embeddings().weight[:, 0] = 1000.0
        made.get_output_embeddings().weight.zero_()
        made.get_output_embeddings().weight[escape, 0] = 100.0
    assert isinstance(made, hf.PreTrainedModel)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["--model", str(folder), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and documents whose texts, titles, ids, metadata and names are hostile."""
    folder = tmp_path_factory.mktemp("files")
    documents = folder / "documents"
    documents.mkdir()
    row = {"id": "esc", "title": HOSTILE, "text": f"Penguins {HOSTILE}", "note": HOSTILE}
    (documents / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (documents / "titled.md").write_text(f"# {HOSTILE}\n\nSeals {HOSTILE}\n", encoding="utf-8")
    (documents / f"{NAME}.txt").write_text("", encoding="utf-8")  # skipped, by name
    texts = {"id": HOSTILE, "text": f"one {HOSTILE}"}
    (folder / f"{NAME}.jsonl").write_text(json.dumps(texts) + "\n", encoding="utf-8")
    good = {"query": HOSTILE, "pos": [f"Here {HOSTILE}"], "neg": ["There"]}
    bad = {"query": HOSTILE, "pos": [], HOSTILE: 1}
    (folder / f"{NAME}-train.jsonl").write_text(
        f"{json.dumps(good)}\n{json.dumps(bad)}\n", encoding="utf-8"
    )
    (folder / f"{NAME}-good.jsonl").write_text(f"{json.dumps(good)}\n", encoding="utf-8")
    (folder / f"{NAME}.toml").write_text(f"[{json.dumps(HOSTILE)}]\na = 1\n", encoding="utf-8")
    task = folder / "tasks" / NAME
    task.mkdir(parents=True)
    pairs = [{"sentence1": HOSTILE, "sentence2": f"{n} {HOSTILE}", "score": n} for n in range(3)]
    (task / "test.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in pairs))
    return folder


def refused_nothing(shown: str) -> str:
    """What a terminal received, once it is known that there is nothing in it to obey."""
    assert not [each for each in OBEYED if each in shown], ascii(shown)
    assert "Traceback" not in shown
    return shown.replace("\r\n", "\n")


def test_embed_prints_escapes(on_a_terminal, hostile_model, files: Path):
    named = str(files / f"{NAME}.jsonl")
    for words in ((HOSTILE,), ("--file", named), ("--file", f"{named}.gone")):
        shown = refused_nothing(on_a_terminal("embed", *words, *hostile_model))
        assert r"\u001b" in shown or r"\x1b" in shown


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_search_prints_escapes_and_markup_as_it_is(on_a_terminal, hostile_model, files, words):
    named = str(files / f"{NAME}.jsonl")
    shown = refused_nothing(on_a_terminal("search", "one", named, *words, *hostile_model))
    if words:
        assert json.loads(shown.splitlines()[-1])["id"] == HOSTILE
    else:
        assert "".join(shown.split()).count(r"\x1b]0;pwn\x07") == 2
        assert "[red]" in shown


def test_index_store_and_ask_print_escapes(on_a_terminal, hostile_model, files, tmp_path: Path):
    place = str(tmp_path / "store")
    shown = refused_nothing(
        on_a_terminal("index", str(files / "documents"), "--to", place, *hostile_model)
    )
    assert r"\x1b[31m\x07\x9bname.txt" in shown
    listed = refused_nothing(on_a_terminal("store", "list", place))
    assert listed.count(SHOWN) >= 3  # two titles and a value
    for words in (
        ("store", "list", place, "--json"),
        ("store", "stats", place),
        ("store", "verify", place),
        ("store", "gc", place),
        ("store", "rebuild", place),
        ("store", "delete", place, HOSTILE, *hostile_model),
        ("store", "list", place, f"--{HOSTILE}"),
    ):
        refused_nothing(on_a_terminal(*words))
    asked = ("ask", f"What of {HOSTILE}?", "--store", place, "--max-new-tokens", "4")
    shown = refused_nothing(on_a_terminal(*asked, "--trace", *hostile_model))
    assert r"\x1b\x1b\x1b\x1b" in shown  # the answer
    assert "RED" in shown  # its sources
    shown = refused_nothing(on_a_terminal(*asked, "--json", *hostile_model))
    assert json.loads(shown.splitlines()[-1])["answer"] == "\x1b" * 4
    refused_nothing(on_a_terminal(*asked, "--filter", f"{HOSTILE}=1", *hostile_model))
    for doomed in ("esc", "titled.md"):
        refused_nothing(on_a_terminal("store", "delete", place, doomed, *hostile_model))


@pytest.mark.parametrize("words", [(), ("--no-stream",)])
def test_generate_prints_escapes_on_a_terminal_and_exact_text_into_a_pipe(
    on_a_terminal, run, hostile_model, words
):
    words = ("generate", "Hello", "--max-new-tokens", "3", *words, *hostile_model)
    assert r"\x1b\x1b\x1b" in refused_nothing(on_a_terminal(*words))
    assert run(*words).stdout == "\x1b\x1b\x1b\n"


def test_chat_prints_escapes(on_a_terminal, run, hostile_model):
    words = ("chat", "--max-new-tokens", "3", *hostile_model)
    lines = f"Hello\n/{HOSTILE}\n"
    shown = refused_nothing(on_a_terminal(*words, stdin=lines))
    assert r"\x1b\x1b\x1b" in shown
    assert "there is no command" in shown
    piped = run(*words, stdin=lines)
    assert piped.stdout == "\x1b\x1b\x1b\n"
    assert "\x1b" not in piped.stderr


def test_info_prints_escapes(on_a_terminal, hostile_model):
    assert r"\x1b[31m\x07\x9bname" in refused_nothing(on_a_terminal("info", *hostile_model))
    refused_nothing(on_a_terminal("info", "--json", *hostile_model))
    refused_nothing(on_a_terminal("info", "--model", f"{HOSTILE}/none"))


def test_export_prints_escapes(on_a_terminal, hostile_model, tmp_path):
    to = (str(tmp_path / NAME),)
    assert r"\x1b" in refused_nothing(on_a_terminal("export", *to, *hostile_model))
    refused_nothing(on_a_terminal("export", *to, "--model", f"{HOSTILE}/none"))


def test_data_check_and_mine_print_escapes(on_a_terminal, hostile_model, files, tmp_path):
    model = hostile_model[:2]
    shown = refused_nothing(
        on_a_terminal("data", "check", str(files / f"{NAME}-train.jsonl"), *model)
    )
    assert SHOWN in shown  # the row as training reads it
    assert "Problems" in shown
    output = ("--output", str(tmp_path / f"{NAME}.jsonl"))
    for rows in ("train", "good"):
        file = str(files / f"{NAME}-{rows}.jsonl")
        refused_nothing(on_a_terminal("mine", file, *output, *hostile_model))


def test_train_serve_and_pull_print_escapes(on_a_terminal, files, tmp_path):
    shown = refused_nothing(on_a_terminal("train", str(files / f"{NAME}.toml")))
    assert r"\x1b" in shown
    refused_nothing(on_a_terminal("serve", f"{HOSTILE}/none", "--port", "0"))
    refused_nothing(on_a_terminal("pull", "--source", HOSTILE))


def test_eval_prints_escapes(on_a_terminal, hostile_model, files, tmp_path):
    folder = hostile_model[1]
    words = ("--data", str(files / "tasks"), "--output", str(tmp_path / NAME), "--no-cache")
    shown = refused_nothing(on_a_terminal("eval", folder, *words, *hostile_model[2:]))
    assert r"\x1b[31m\x07\x9bname" in shown
    refused_nothing(on_a_terminal("eval", folder, "--tasks", HOSTILE, *words[2:]))


def test_adapt_prints_escapes(on_a_terminal, hostile_model, files, tmp_path):
    words = (*hostile_model[:2], "--device", "cpu", "--steps", "1", "--max-tokens", "512")
    few = ("adapt", str(files / "documents"), "--to", str(tmp_path / NAME), *words)
    shown = refused_nothing(on_a_terminal(*few))
    assert r"\x1b" in shown  # the name of a file that is skipped
    assert "0 usable passages" in shown
    many = tmp_path / "many.jsonl"
    told = "have written into the long reports of every winter and every summer since then"
    rows = [
        {
            "id": f"k{n}",
            "title": HOSTILE,
            "text": f"The keepers of colony {n} {told} {HOSTILE} {told}.",
        }
        for n in range(60)
    ]
    many.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    trial = (
        "adapt",
        str(many),
        "--to",
        str(tmp_path / "run"),
        "--dry-run",
        *words,
        "--without",
        "filter",
    )
    shown = refused_nothing(on_a_terminal(*trial))
    assert "training steps" in shown
    assert r"\x1b" in shown or r"\u001b" in shown  # the rows that are shown as examples
    assert not (tmp_path / "run").exists()


def test_every_command_is_in_a_test_of_this_file():
    tested = Path(__file__).read_text(encoding="utf-8")
    members = [member.__name__.rstrip("_") for *_, group in GROUPS for member in group]
    commands = [command.__name__.rstrip("_") for command in COMMANDS]
    assert [name for name in (*commands, *members) if f'"{name}"' not in tested] == []


def test_a_pipe_gets_the_data_as_it_is(capsys: pytest.CaptureFixture[str]):
    terminal.write(HOSTILE)
    assert capsys.readouterr().out == HOSTILE


def test_escapes_are_not_taken_for_markup(capsys: pytest.CaptureFixture[str]):
    terminal.draw(terminal.text(HOSTILE))
    assert capsys.readouterr().out == f"{SHOWN}\n"
    assert printable(HOSTILE) == SHOWN


def test_warnings_of_libraries_are_escaped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    logs.escape_warnings()
    assert SHOWN in warnings.formatwarning(HOSTILE, UserWarning, "file.py", 1)
    record = logging.LogRecord("a.library", logging.WARNING, "", 1, HOSTILE, (), None)
    assert logging.lastResort is not None
    assert logging.lastResort.format(record) == SHOWN


# The only modules that may write to a stream or use rich's console and text.
WRITERS = {"gritlm.cli.terminal", "gritlm.cli.logs"}
WRITES = {
    "print",
    "console.print",
    "sys.stderr.write",
    "sys.stdout.write",
    "tqdm.write",
    "typer.echo",
    "typer.secho",
}


def calls(path: Path) -> set[str]:
    """Every call in a file, by its dotted name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - WRITERS))
def test_only_the_modules_that_escape_write_to_the_terminal(module: str):
    assert not WRITES & calls(MODULES[module])
    assert not {"rich.console", "rich.text"} & set(imports(module, types=False))
