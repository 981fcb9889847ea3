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


ARRAY = '[{"text": "a"}, {"id": 7, "title": "T", "text": "b"}, "c"]'
TABLE = 'id,title,text\r\n1,,"a, b\nc"\r\n\r\n2,T,d\r\n'


@pytest.mark.parametrize("name", ["arr.json", "arr", "arr.txt"])
def test_a_json_array_is_a_list_of_rows(tmp_path: Path, name: str):
    (tmp_path / name).write_text(ARRAY)
    expected = [files.Item("a"), files.Item("T b", 7), files.Item("c")]
    assert read(tmp_path / name) == expected


def test_a_json_array_over_several_lines_is_a_list_of_rows(tmp_path: Path):
    (tmp_path / "arr.json").write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=2))
    assert read(tmp_path / "arr.json") == [files.Item("a"), files.Item("b")]


def test_json_lines_in_a_json_file_are_read(tmp_path: Path):
    file = jsonl(tmp_path / "docs.json", {"text": "a"}, {"text": "b"})
    assert read(file) == [files.Item("a"), files.Item("b")]


def test_a_text_that_only_begins_like_an_array_is_text(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("[1] first note\n[2] second\n")
    assert read(tmp_path / "notes.txt") == [files.Item("[1] first note"), files.Item("[2] second")]


@pytest.mark.parametrize(
    ("name", "separator"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("T.CSV", ",")]
)
def test_a_table_is_read_by_its_header(tmp_path: Path, name: str, separator: str):
    table = TABLE.replace("a, b", "a@ b").replace(",", separator).replace("@", ",")
    (tmp_path / name).write_text(table, newline="")
    assert read(tmp_path / name) == [files.Item("a, b\nc", "1"), files.Item("T d", "2")]


def test_a_table_may_have_another_column_and_come_by_stdin(error_of, tmp_path: Path):
    (tmp_path / "t.csv").write_text("question,text\nWho?,I\n")
    assert read(tmp_path / "t.csv", field="question") == [files.Item("Who?")]
    message = error_of("embed", "--input-format", "csv", stdin="a,b\n1,2\n")
    assert message.startswith("stdin:2: no field 'text'; the record has 'a', 'b'")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "id,text\n1,a, b\n", "t.csv:2: 3 cells, the header has 2 ('id', 'text')"),
        ("t.csv", 'id,text\n1,"a\n2,b\n', "t.csv:2: broken table"),
        ("t.csv", "text,text\na,b\n", "t.csv:1: column 'text' is in the header twice"),
        ("t.csv", 'id,text\n1,"x\ny"\n2, \n', "t.csv:4: field 'text' is empty"),
        ("t.csv", "id,text\n", "t.csv holds no text"),
        ("t.tsv", "id,text\n1,a\n", "t.tsv:2: no field 'text'; the record has 'id,text'"),
        (
            "a.json",
            '[{"text": "a"},\n {"text": ]',
            "a.json:2: broken JSON (Expecting value at column 11)",
        ),
        ("a.json", '[{"text": "a"}, 3]', "a.json: item 2: a number; expected a JSON object"),
        ("a.json", '{"data": []}', "a.json: item 1: no field 'text'; the record has 'data'"),
        ("a.json", "[]", "a.json holds no text"),
        ("a.json", "[" * 100_000, "broken JSON"),
    ],
)
def test_a_broken_table_or_array_is_named(error_of, tmp_path: Path, name, content, said):
    (tmp_path / name).write_text(content)
    assert said in error_of("embed", "--file", str(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "notes.txt").write_bytes(f"{mark}Grüße\nzwei\n".encode(encoding))
    assert read(tmp_path / "notes.txt") == [files.Item("Grüße"), files.Item("zwei")]


def test_other_encodings_are_refused_with_their_name(error_of, tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_bytes("one\ntwo\n".encode("utf-16-le"))
    assert "UTF-16 without a byte order mark" in error_of("embed", "--file", str(file))
    file.write_bytes("one\n".encode("utf-16")[:-1])
    assert "begins as UTF-16" in error_of("search", "query", str(file))
