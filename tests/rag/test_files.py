from __future__ import annotations

import json
import os
import random
from datetime import date, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfWriter

from gritlm.errors import InputError
from gritlm.rag.ingest.skips import SkippedSource, Skips
from gritlm.rag.ingest.sources import documents
from gritlm.rag.types import Document

FRENCH = "Le château reçoit chaque été des milliers de visiteurs, où êtes-vous allé à Noël? " * 6


def read(*sources, **options) -> tuple[list[Document], dict[str, str]]:
    """Documents, and reasons by what was skipped."""
    skipped: list[SkippedSource] = []
    found = list(documents(list(sources), skipped=skipped, **options))
    return found, {each.path: each.reason for each in skipped}


def pdf(*pages: str, title: str = "", password: str | None = None) -> bytes:
    """A PDF with a line of text a page, as small as it can be."""
    kids = " ".join(f"{4 + 2 * page} 0 R" for page in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 9 99 Td ({text}) Tj ET" if text else ""
        objects += [
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Resources<</Font<</F1 3 0 R>>>>"
            f"/Contents {5 + 2 * number} 0 R>>",
            f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        ]
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj{content}endobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    data += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}".encode()
    end = data.rindex(b"xref")
    data += f"trailer<</Size {len(places) + 1}/Root 1 0 R>>\nstartxref\n{end}\n%%EOF".encode()
    writer = PdfWriter(BytesIO(data))
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_folder_is_read_in_order_of_names_without_hidden_files(tmp_path):
    for name in ("b/two.txt", "a.txt", "b/one.md", ".hidden/x.txt", "b/.y.txt", "c.TXT"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {name}")
    found, skipped = read(tmp_path)
    assert [each.id for each in found] == [
        f"{tmp_path.name}/{name}" for name in ("a.txt", "c.TXT", "b/one.md", "b/two.txt")
    ]
    assert found[0].text == "text of a.txt"
    assert not skipped


def test_a_file_that_was_given_alone_is_known_by_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    for place, source in ((tmp_path, "docs/a.txt"), (tmp_path / "docs", "a.txt"), ("/", None)):
        monkeypatch.chdir(place)
        found, _ = read(source or tmp_path / "docs" / "a.txt")
        assert [each.id for each in found] == ["docs/a.txt"]


def test_a_file_that_was_given_twice_is_read_once(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    (tmp_path / "docs" / "b.jsonl").write_text('{"text": "one"}\n{"text": "one"}\n')
    found, skipped = read(tmp_path / "docs", tmp_path, tmp_path / "docs" / "b.jsonl")
    assert [each.text for each in found] == ["text", "one"]
    assert list(skipped) == [f"{tmp_path}/docs/b.jsonl:2"]


def test_in_a_folder_it_is_known_by_the_path_from_that_folder_on(tmp_path, monkeypatch):
    (tmp_path / "docs" / "new").mkdir(parents=True)
    (tmp_path / "docs" / "new" / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path / "docs")
    for source in (tmp_path / "docs", ".", "../docs"):
        assert [each.id for each in read(source)[0]] == ["docs/new/a.txt"]


def test_the_first_heading_of_markdown_is_its_title(tmp_path):
    (tmp_path / "a.md").write_text("intro\n\n# Cats and *dogs* #\n\n## More\n")
    ((document,), _) = read(tmp_path)
    assert (document.title, document.markdown) == ("Cats and *dogs*", True)


def test_html_becomes_markdown_without_scripts(tmp_path):
    (tmp_path / "a.html").write_text(
        "<html><head><title>The \n page</title><style>p {}</style></head><body><h2>Cats</h2>"
        "<script>var x = 1</script><p>They <b>sleep</b> in snake_case, see "
        "<a href='u'>here</a>.</p><ul><li>one</li></ul><img src='data:xx'></body></html>"
    )
    ((document,), _) = read(tmp_path)
    assert (document.title, document.markdown) == ("The page", True)
    assert document.text == "## Cats\n\nThey **sleep** in snake_case, see here.\n\n* one"


def test_html_is_read_in_the_encoding_that_it_declares(tmp_path):
    page = "<html><head><meta charset='iso-8859-2'></head><body>zażółć</body></html>"
    (tmp_path / "a.htm").write_bytes(page.encode("iso-8859-2"))
    ((document,), _) = read(tmp_path)
    assert document.text == "zażółć"


def test_the_pages_of_a_pdf_are_one_text(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf("Cats sleep.", "Dogs walk.", title="Animals"))
    ((document,), _) = read(tmp_path)
    assert (document.text, document.title) == ("Cats sleep.\n\nDogs walk.", "Animals")


def test_a_pdf_that_only_its_owner_may_change_is_read(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf("Cats sleep.", password=""))
    ((document,), _) = read(tmp_path)
    assert document.text == "Cats sleep."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pdf("Cats sleep.", password="secret"), "encrypted"),
        (pdf("", ""), "without text"),
        (b"%PDF-1.4\nnot really", "no PDF that can be read"),
        (pdf("Cats sleep.")[:300], "no PDF that can be read"),
    ],
)
def test_a_pdf_that_cannot_be_read_is_skipped_with_the_reason(tmp_path, data, reason, capfd):
    (tmp_path / "a.pdf").write_bytes(data)
    (tmp_path / "b.txt").write_text("the rest")
    found, skipped = read(tmp_path)
    assert [each.id for each in found] == [f"{tmp_path.name}/b.txt"]
    assert reason in skipped[f"{tmp_path}/a.pdf"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t ", "empty"),
        ("a.html", b"<html><script>1</script></html>", "empty"),
        ("a.txt", b"text" * 100, "larger than 100 bytes"),
        ("a.txt", b"\x00\x01\x02binary\xff", "binary"),
        ("a.txt", b"text \x00 text", "binary"),
        ("a.txt", random.Random(0).randbytes(90).replace(b"\0", b"\xff"), "convert it to UTF-8"),
        ("a.txt", "café".encode("latin-1"), "byte 4 (0xe9) is not UTF-8"),
        ("a.txt", "é ".encode() * 9 + b"\xff", "damaged: byte 28 (0xff) is not UTF-8"),
        ("a.txt", b"\xff\xfea", "damaged: it says utf-16"),
        ("a.png", b"text", "this model reads text only; load a model that reads images"),
        ("a", b"text", "no ending"),
    ],
)
def test_a_file_that_is_no_text_is_skipped_with_the_reason(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "b.txt").write_text("the rest")
    found, skipped = read(tmp_path, max_bytes=100)
    assert [each.id for each in found] == [f"{tmp_path.name}/b.txt"]
    assert list(skipped) == [f"{tmp_path}/{name}"]
    assert reason in skipped[f"{tmp_path}/{name}"]


@pytest.mark.parametrize(
    "encoding",
    [
        "utf-8",
        "utf-8-sig",
        "utf-16",
        "utf-32",
        "cp1252",
    ],
)
def test_text_is_read_in_the_encoding_it_is_written_in(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(FRENCH.encode(encoding))
    ((document,), _) = read(tmp_path)
    assert document.text == FRENCH


def test_ends_of_lines_are_all_alike(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert read(tmp_path)[0][0].text == "one\ntwo\nthree\n"


def test_what_is_no_file_and_what_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "locked.txt").write_text("text")
    real = Path.open

    def refuse(self, *args, **options):
        if self.name == "locked.txt":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    found, skipped = read(tmp_path)
    assert not found
    assert skipped == {
        f"{tmp_path}/gone.txt": "no regular file",
        f"{tmp_path}/locked.txt": "unreadable: Permission denied",
        f"{tmp_path}/pipe.txt": "no regular file",
    }


def test_rows_of_a_jsonl_file_are_documents(tmp_path):
    rows = [
        {"id": "x", "title": "T", "text": "one", "metadata": {"lang": "en"}, "year": 2020},
        {"id": 7, "text": "two"},
        {"text": "three"},
    ]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    (first, second, third), skipped = read(tmp_path)
    name = f"{tmp_path.name}/a.jsonl"
    assert first == Document(f"{name}#x", "one", "T", {"lang": "en", "year": 2020})
    assert second.id == f"{name}#7"
    assert third.id.startswith(f"{name}#")
    assert len(third.id) == len(f"{name}#") + 32
    assert not skipped


def test_broken_rows_are_named_by_file_and_line_and_the_rest_goes_in(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"{broken",
        b"[1]",
        b'{"text": 3}',
        b'{"text": " "}',
        b'{"title": "t"}',
        b'{"text": "t", "tags": ["a"]}',
        b'{"text": "t", "score": NaN}',
        b'{"text": "\\ud800"}',
        b'{"text": "t", "id": ""}',
        b'{"text": "t", "metadata": 3}',
        b'{"text": "\xff"}',
        b'{"text": "' + b"x" * 300 + b'"}',
        b'{"text": "t", "n": 9223372036854775808}',
        b"[" * 200 + b"]",
        b'{"text": "also good"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    found, skipped = read(path, max_bytes=300)
    assert [each.text for each in found] == ["good", "t", "also good"]
    assert found[1].metadata == {"tags": ["a"]}
    reasons = [
        "broken JSON",
        "list; expected one JSON object",
        "'text' is int",
        "empty",
        "empty",
        "broken JSON (NaN",
        "half a surrogate pair",
        "'id' is ''",
        "'metadata' is int",
        "byte 11 (0xff) is not UTF-8",
        "more than 300 bytes",
        "the number 9223372036854775808",
        "broken JSON",
    ]
    assert list(skipped) == [f"{path}:{number}" for number in range(2, 16) if number != 7]
    for said, reason in zip(skipped.values(), reasons, strict=True):
        assert reason in said


def test_an_empty_jsonl_file_is_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    assert read(tmp_path)[1] == {f"{tmp_path}/a.jsonl": "empty"}


def test_dicts_and_documents_are_taken_as_they_are():
    whole = Document("d", "text", "title", {"a": 1}, markdown=True)
    found, skipped = read(
        {"id": "a", "text": "one", "markdown": True},
        {"text": "two"},
        whole,
        {"text": ""},
        Document("e", " "),
        {"text": "t", "markdown": 1},
        {"id": "b", "text": "x" * 200},
        max_bytes=100,
    )
    assert found[0] == Document("a", "one", markdown=True)
    assert found[2] is whole
    assert found[1].id == read({"text": "two"})[0][0].id != read({"text": "three"})[0][0].id
    assert list(skipped) == [f"sources[{number}]" for number in range(3, 7)]


BAD_IDS = ["x" * 513, "é" * 257, ".", "..", "a\nb", "a\u202eb", ""]


@pytest.mark.parametrize("name", BAD_IDS)
def test_one_rule_for_ids_of_dicts_documents_and_rows(tmp_path, name):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": name, "text": "t"}))
    (tmp_path / "a.csv").write_text(f'id,text\n"{name}",t\n' if name else "id,text\n.,t\n")
    found, skipped = read(
        {"id": name, "text": "t"},
        {"_id": name, "text": "t"},
        Document(name, "t"),
        tmp_path,
    )
    assert not found
    assert len(skipped) == 5
    assert all(" id" in reason or "'id'" in reason for reason in skipped.values())


def test_the_longest_id_is_taken():
    assert len(read({"id": "é" * 256, "text": "t"})[0]) == 1


def test_a_file_whose_name_stands_on_two_lines_is_skipped(tmp_path):
    (tmp_path / "a\nb.txt").write_text("text")
    found, skipped = read(tmp_path)
    assert not found
    assert "control characters" in skipped[f"{tmp_path}/a\nb.txt"]


def test_metadata_of_a_document_has_a_size():
    large = {"id": "a", "text": "t", "note": "x" * 16_384}
    found, skipped = read(large, large | {"note": "x" * 16_000}, Document("c", "t", "", large))
    assert [each.id for each in found] == ["a"]
    assert list(skipped) == ["sources[0]", "sources[2]"]
    assert skipped["sources[0]"] == (
        "its metadata has 16,396 bytes; expected at most 16,384: move long values into the text, "
        "or leave them out"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"a": {"b": {"c": 1}}}, {"a.b.c": 1}),
        ({"a": [1, "x", None, True]}, {"a": [1, "x", None, True]}),
        ({"a": [{"b": 1}, [2]]}, {"a": '[{"b": 1}, [2]]'}),
        (
            {"day": date(2024, 5, 1), "at": datetime(2024, 5, 1, 9)},
            {"day": "2024-05-01", "at": "2024-05-01T09:00:00"},
        ),
        ({"a": (1, 2), "b": {}, "c": None}, {"a": [1, 2], "b": "{}", "c": None}),
    ],
)
def test_metadata_of_all_shapes_is_kept(given, kept):
    ((document,), skipped) = read({"text": "t", "metadata": given})
    assert document.metadata == kept
    assert not skipped


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": float("nan")}, "'a' is the number nan"),
        ({"a": {"b": object()}}, "'a.b' is of type"),
        ({"a": [float("inf"), [1]]}, "cannot be kept as JSON"),
        ({"a": {"b": 1}, "a.b": 2}, "two values"),
        ({3: 1}, "cannot name metadata"),
        ({"a": ["\ud800"]}, "broken text"),
    ],
)
def test_metadata_that_cannot_be_kept_is_an_error_that_names_it(given, said):
    _, skipped = read({"text": "t", "metadata": given})
    assert said in skipped["sources[0]"]


def test_the_field_of_the_text_can_be_named(tmp_path):
    (tmp_path / "a.csv").write_text("name,story,text\nTea,Long ago.,short\n")
    ((row, value), skipped) = read(tmp_path, {"story": "New."}, text_field="story")
    assert (row.text, dict(row.metadata)) == ("Long ago.", {"name": "Tea", "text": "short"})
    assert value.text == "New."
    assert not skipped


def test_skipped_rows_are_all_counted_and_the_first_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"1\n" * 5000 + b'{"text": "t"}\n')
    skips = Skips()
    assert [each.text for each in documents([tmp_path], skipped=skips)] == ["t"]
    assert (skips.count, len(skips.named)) == (5000, 100)
    assert skips.named[0] == SkippedSource(
        f"{tmp_path}/a.jsonl:1", "int; expected one JSON object a line"
    )


def test_two_folders_of_one_name_lose_nothing(tmp_path, caplog):
    for name in ("one/notes", "two/notes"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "README.md").write_text(name)
    found, skipped = read(tmp_path / "one" / "notes", tmp_path / "two" / "notes")
    assert {each.id: each.text for each in found} == {
        "notes/README.md": "one/notes",
        "two/notes/README.md": "two/notes",
    }
    assert not skipped
    assert "known as 'two/notes'" in caplog.text


def test_of_two_documents_with_one_id_the_second_is_named_and_left_out(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("file")
    found, skipped = read({"id": "notes/a.txt", "text": "value"}, tmp_path / "notes")
    assert [each.text for each in found] == ["value"]
    assert skipped == {f"{tmp_path}/notes/a.txt": "its id 'notes/a.txt' is that of sources[0]"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a text that is no path", "hand in text as"),
        (Path("nowhere.txt"), "is no file or folder"),
        (3, "a source is int"),
        ("x" * 5000, "is no file or folder"),
        ("a\0b", "is no file or folder"),
    ],
)
def test_a_source_that_is_none_is_an_error_before_anything_is_read(source, said):
    with pytest.raises(InputError, match=said):
        documents([{"text": "fine"}, source], skipped=[])


def test_one_path_instead_of_a_list_is_an_error(tmp_path):
    with pytest.raises(InputError, match="expected a list"):
        documents(str(tmp_path), skipped=[])


def test_documents_are_read_when_they_are_asked_for(tmp_path):
    def endless():
        while True:
            yield {"text": "again and again"}

    found = documents(endless(), skipped=[])
    assert next(found).text == "again and again"
