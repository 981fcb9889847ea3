"""``gritlm data check`` looks through a file of rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from gritlm.cli.commands.data import LengthOptions, _marked
from gritlm.train.config import DataConfig
from gritlm.train.data.inspect import LabelledSpan

PAIR = {"query": ["Find it", "Where is the [red] ball?"], "pos": ["Here."], "neg": ["There."]}
CHAT = {"text": ["Who reads?", "A model."]}


@pytest.fixture
def check(run, model_folder: Path, tmp_path: Path):
    """``gritlm data check`` on these rows (records, or lines as they are)."""

    def call(*rows: dict | str, words: tuple[str, ...] = ()):
        file = tmp_path / "rows.jsonl"
        lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
        file.write_text("".join(f"{line}\n" for line in lines))
        return run("data", "check", str(file), "--model", str(model_folder), *words)

    return call


def table(shown: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}


def test_good_rows_are_counted_and_measured(check):
    result = check(PAIR, PAIR, PAIR | {"query": "Who?"})
    assert result.exit_code == 0
    assert result.stderr == ""
    shown = table(result.stdout)
    assert shown["kind"] == ["embedding"]
    assert shown["rows"] == ["3"]
    assert shown["duplicates"][0] == "1"
    assert shown["that"][:4] == ["cannot", "be", "used", "0"]
    assert "Problems" not in result.stdout
    assert shown["query"][0] == "2"
    assert shown["passage"][-2:] == ["2,048", "0"]


def test_problems_are_listed_and_give_exit_code_2(check, tmp_path: Path):
    result = check(PAIR, "{broken", {**PAIR, "pos": []})
    file = tmp_path / "rows.jsonl"
    assert result.exit_code == 2
    *_, first, second = result.stdout.splitlines()
    assert first.startswith(f"{file}:2: ")
    assert second.startswith(f"{file}:3: ")
    assert table(result.stdout)["that"][3] == "2"
    assert result.stderr == f"gritlm: error: {file}: 2 problems in 3 rows; see the list above\n"


def test_a_long_list_of_problems_ends_with_a_count(check):
    assert "... and 10 more\n" in check(PAIR, *["{broken"] * 60).stdout


def test_a_row_is_shown_with_brackets_where_there_are_no_colours(check):
    shown = check(PAIR).stdout
    assert "What training reads; [[this]] becomes the vector:\n" in shown
    assert "rows.jsonl:1 query:\n<s><|user|>\nFind it\n<|embed|>\n" in shown
    assert "[[Where is the [red] ball?]]" in shown
    assert "\x1b" not in shown


def test_trained_text_is_marked(check):
    shown = check(CHAT).stdout
    assert "What training reads; {{this}} is learned:\n" in shown
    assert "rows.jsonl:1 conversation:\n" in shown
    assert "{{A model." in shown


def test_where_there_are_colours_there_are_no_brackets():
    pieces = [
        LabelledSpan("a", "header"),
        LabelledSpan("b", "pooled"),
        LabelledSpan("c", "trained"),
    ]
    text = _marked(pieces, coloured=True)
    assert text.plain == "abc"
    assert len({str(span.style) for span in text.spans}) == 3
    assert _marked(pieces, coloured=False).plain == "a[[b]]{{c}}"


def test_rows_are_shown_by_number(check):
    rows = [PAIR | {"query": f"Number {number}?"} for number in range(3)]
    shown = check(*rows, words=("--sample", "2")).stdout
    assert ("Number 0?" in shown, "Number 1?" in shown, "Number 2?" in shown) == (True, True, False)
    assert "[[" not in check(*rows, words=("--sample", "0")).stdout


def test_lengths_and_kind_are_used(check):
    words = ("--kind", "generative", "--generative-max-len", "5")
    result = check(CHAT, words=words)
    assert result.exit_code == 2
    assert "no answer left" in result.stdout


def test_no_weights_are_needed(check, model_folder: Path, tmp_path: Path):
    folder = tmp_path / "without weights"
    folder.mkdir()
    for file in model_folder.iterdir():
        if file.suffix in (".json", ".jinja"):
            (folder / file.name).write_bytes(file.read_bytes())
    assert check(PAIR, words=("--model", str(folder))).exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.jsonl",), "none.jsonl does not exist"),
        (("rows.txt",), "rows.txt has an ending that is not known"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(
    error_of, model_folder, tmp_path, monkeypatch, words, said
):
    monkeypatch.chdir(tmp_path)
    Path("rows.txt").write_text("a text\n")
    assert said in error_of("data", "check", *words, "--model", str(model_folder))


def test_a_model_that_is_not_there_is_an_error(error_of, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(PAIR))
    message = error_of("data", "check", str(file), "--model", str(tmp_path / "none"))
    assert message.endswith("there is no such folder")


def test_the_group_alone_shows_its_commands(run):
    result = run("data")
    assert result.exit_code == 0
    assert "check" in result.stdout


def test_an_unknown_command_of_the_group_names_the_right_one(error_of):
    assert "'check'" in error_of("data", "chekc")


def test_the_options_have_the_defaults_of_a_run():
    defaults = asdict(DataConfig())
    assert asdict(LengthOptions()) == {name: defaults[name] for name in asdict(LengthOptions())}


def test_rows_that_training_can_skip_are_no_error_on_demand(check):
    result = check(PAIR, "{broken", words=("--skip-bad",))
    assert result.exit_code == 0
    assert result.stderr == ""
    assert ":2: broken JSON" in result.stdout
    assert table(result.stdout)["that"][3:] == ["1", "--skip-bad", "skips", "them"]
    nothing = check("{broken", words=("--skip-bad", "--kind", "embedding"))
    assert nothing.exit_code == 2
    assert "none of its 1 rows can be used" in nothing.stderr
