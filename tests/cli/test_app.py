"""The program around the commands: help, versions, errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gritlm
from gritlm.cli.logs import describe
from gritlm.errors import InputError

COMMANDS = (
    "embed",
    "search",
    "index",
    "ask",
    "chat",
    "generate",
    "train",
    "mine",
    "eval",
    "data",
    "store",
    "pull",
    "info",
)
DEEPER = [["data", "check"], ["store", "list"], ["store", "delete"]]
HELP = [[], *DEEPER, *([name] for name in COMMANDS)]


def test_help_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from gritlm.cli import main\n"
        f"for words in {HELP!r}:\n"
        "    sys.argv = ['gritlm', *words, '--help']\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as done:\n"
        "        assert done.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'tokenizers', 'peft', 'pyarrow'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "gritlm", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"gritlm {gritlm.__version__}\n"
    assert done.stderr == ""


def test_help_lists_every_command(run):
    shown = run("--help").stdout
    assert all(name in shown for name in COMMANDS)


def test_without_a_command_the_help_is_shown(run):
    result = run()
    assert result.exit_code == 0
    assert result.stdout.strip() == run("--help").stdout.strip()


def test_an_unknown_command_is_an_error_of_one_line(error_of):
    message = error_of("emebd", "text")
    assert message.startswith("No such command 'emebd'")
    assert message.endswith("(see 'gritlm --help')")


def test_an_unknown_option_is_an_error_that_names_the_help(error_of):
    message = error_of("embed", "text", "--temprature", "1")
    assert "--temprature" in message
    assert message.endswith("(see 'gritlm embed --help')")


def test_a_value_out_of_range_names_the_option(error_of):
    assert "'--batch-size'" in error_of("embed", "text", "--batch-size", "0")
    assert "'--top-k'" in error_of("search", "query", "file", "--top-k", "0")
    assert "'--temperature'" in error_of("generate", "prompt", "--temperature=-1")
    assert "'--threads'" in error_of("info", "--threads", "0")


def test_an_unknown_choice_names_the_known_ones(error_of):
    message = error_of("embed", "text", "--dtype", "float8")
    assert all(name in message for name in ("float8", "auto", "float32", "bfloat16", "float16"))


def test_a_traceback_comes_only_with_debug(run):
    assert "Traceback" not in run("embed", "").stderr
    for words in (("--debug", "embed", ""), ("embed", "--debug", "")):
        result = run(*words)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("gritlm: error: text 1 ")


def test_quiet_leaves_only_errors(run_model, tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("one\n\ntwo\n")
    assert "blank" in run_model("embed", "--file", str(file)).stderr
    assert run_model("embed", "--file", str(file), "--quiet").stderr == ""


def test_verbose_says_how_the_number_format_was_chosen(run, model_folder: Path):
    words = ("embed", "--model", str(model_folder), "text")
    assert "gritlm: info: number format" in run(*words, "--verbose").stderr
    assert "number format" not in run(*words).stderr


def test_a_model_that_is_not_there_is_an_error_of_one_line(error_of, tmp_path: Path):
    message = error_of("embed", "text", "--model", str(tmp_path))
    assert str(tmp_path) in message
    assert "config.json" in message


def test_a_device_that_is_not_there_is_an_error_of_one_line(error_of, model_folder: Path):
    message = error_of("embed", "text", "--model", str(model_folder), "--device", "abacus")
    assert "abacus" in message


def test_messages_of_several_lines_become_one():
    assert describe(InputError("first\n  second\n")) == "first second"


def test_an_unexpected_error_keeps_its_kind_and_points_to_debug():
    message = describe(KeyError("weights"))
    assert message.startswith("KeyError: 'weights'")
    assert "--debug" in message


def test_a_system_error_names_its_file():
    error = OSError(28, "No space left on device", "vectors.npy")
    assert describe(error) == "vectors.npy: No space left on device"
