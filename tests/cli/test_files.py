"""What texts can come as, and what broken ones get. Nothing here needs a model to be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm.cli import files
from gritlm.cli.options import InputFormat
from gritlm.errors import InputError


def read(path: Path, *, input_format: str = "auto", field: str = "text") -> list[files.Item]:
    return files.read_items(str(path), input_format=InputFormat(input_format), field=field)


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_text_file_holds_one_text_a_line(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("first line\r\n  indented\nlast, without an end", newline="")
    assert [item.text for item in read(file)] == [
        "first line",
        "  indented",
        "last, without an end",
    ]


def test_only_a_line_feed_ends_a_text(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("one\u2028still one\x0bstill\ntwo\n", newline="")
    assert [item.text for item in read(file)] == ["one\u2028still one\x0bstill", "two"]


def test_blank_lines_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "notes.txt"
    file.write_text("one\n\n  \ntwo\n")
    assert [item.text for item in read(file)] == ["one", "two"]
    assert "2 blank lines left out" in caplog.text


def test_a_file_without_blank_lines_gives_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "notes.txt"
    file.write_text("one\ntwo\n")
    read(file)
    assert caplog.text == ""


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_bytes(b"\xef\xbb\xbfone\n")
    assert read(file) == [files.Item("one")]


def test_json_lines_keep_ids_and_put_the_title_first(tmp_path: Path):
    file = jsonl(
        tmp_path / "docs.jsonl",
        {"id": "d1", "title": "Heron", "text": "It waits."},
        {"_id": 7, "text": " alone "},
        {"text": "no id", "title": None},
    )
    assert read(file) == [
        files.Item("Heron It waits.", "d1"),
        files.Item("alone", 7),
        files.Item("no id", None),
    ]


def test_another_field_is_read_without_the_title(tmp_path: Path):
    file = jsonl(tmp_path / "docs.jsonl", {"title": "Heron", "question": "What waits?"})
    assert read(file, field="question") == [files.Item("What waits?")]


def test_json_lines_are_known_by_their_first_line_too(tmp_path: Path):
    assert read(jsonl(tmp_path / "docs.txt", {"text": "inside"})) == [files.Item("inside")]


def test_lines_that_look_like_json_can_be_read_as_text(tmp_path: Path):
    file = jsonl(tmp_path / "docs.jsonl", {"text": "inside"})
    assert read(file, input_format="text") == [files.Item('{"text": "inside"}')]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "cut', "broken JSON (Unterminated string starting at at column 10)"),
        ("[" * 100_000, "broken JSON"),
        ('["text"]', "a list; expected a JSON object"),
        ('{"body": "b", "id": 1}', "no field 'text'; the record has 'body', 'id'"),
        ("{}", "no field 'text'; the record has no field at all"),
        ('{"text": 3}', "field 'text' is a number; expected a string"),
        ('{"text": null}', "field 'text' is null; expected a string"),
        ('{"text": "t", "title": ["x"]}', "field 'title' is a list; expected a string"),
        ('{"text": "  "}', "field 'text' is empty"),
        ('{"text": "t", "id": {"a": 1}}', "the id is an object"),
        ('{"text": "t", "id": true}', "the id is true or false"),
        ('{"text": "t\\ud800"}', "half a character"),
    ],
)
def test_a_broken_record_is_named_by_file_and_line(error_of, tmp_path: Path, line: str, said: str):
    file = tmp_path / "docs.jsonl"
    file.write_text('{"text": "good"}\n\n' + line + "\n")
    message = error_of("embed", "--file", str(file))
    assert message.startswith(f"{file}:3: ")
    assert said in message


def test_the_right_field_can_be_named_when_it_is_missing(error_of, tmp_path: Path):
    file = jsonl(tmp_path / "docs.jsonl", {"body": "b"})
    assert "--field" in error_of("search", "query", str(file))


@pytest.mark.parametrize("name", ["notes.txt", "notes.jsonl"])
def test_bytes_that_are_not_utf8_are_named(error_of, tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
    message = error_of("embed", "--file", str(file))
    assert message.startswith(f"{file}:2: byte 14 (0xe9) is not UTF-8")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_text_is_refused(error_of, tmp_path: Path, content: bytes):
    file = tmp_path / "empty.txt"
    file.write_bytes(content)
    assert error_of("embed", "--file", str(file)).startswith(f"{file} holds no text")


def test_empty_stdin_is_refused(error_of):
    assert error_of("embed").startswith("stdin holds no text")
    assert error_of("generate").startswith("stdin is empty")


def test_a_file_that_is_not_there_is_named(error_of, tmp_path: Path):
    missing = tmp_path / "missing.txt"
    assert error_of("embed", "--file", str(missing)).startswith(
        f"cannot read {missing}: No such file"
    )
    assert "Is a directory" in error_of("search", "query", str(tmp_path))


def test_an_empty_text_is_named_by_its_number(error_of):
    assert error_of("embed", "good", " ").startswith("text 2 of the command line is empty")


def test_an_empty_query_and_an_empty_prompt_are_refused(error_of, tmp_path: Path):
    assert "is empty" in error_of("search", "", str(tmp_path / "f"))
    assert "is empty" in error_of("generate", "")


def test_texts_and_a_file_together_are_refused(error_of):
    assert "give one of them" in error_of("embed", "text", "--file", "notes.txt")


def test_an_argument_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match="half a character"):
        files.from_arguments(["caf\udce9"])
