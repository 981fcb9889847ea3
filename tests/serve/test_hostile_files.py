"""Hostile Office and EPUB files uploaded to a server: one error each, and nothing half-done."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from zipfile import ZIP_STORED, ZipFile

import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.stores import StoreAt
from tests.office import docx, epub, paragraph, zipped
from tests.rag.test_office import slides
from tests.serve.conftest import Served, served

DOCUMENTS = "/v1/rag/documents"
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
SHEET = (
    '<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/'
    'main"><sheetData>{}</sheetData></worksheet>'
)


def laughing() -> str:
    """Ten entities, each ten times the one before."""
    entities = ['<!ENTITY a0 "ha">']
    entities += [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)]
    return f"<!DOCTYPE x [{''.join(entities)}]>"


def many_in_one() -> bytes:
    """Parts of the package whose contents overlap would be larger than what is declared."""
    written = BytesIO()
    with ZipFile(written, "w", ZIP_STORED) as package:
        for number in range(60):
            package.writestr(f"word/{number}.zip", zipped({"a.xml": b"<a/>" * 2_000_000}))
    return written.getvalue()


def outside(*hrefs: str, more: dict[str, str] | None = None) -> bytes:
    """A book whose chapters are files of this machine, or elsewhere in the package."""
    items = "".join(
        f'<item id="i{n}" href="{href}" media-type="application/xhtml+xml"/>'
        for n, href in enumerate(hrefs)
    )
    spine = "".join(f'<itemref idref="i{n}"/>' for n in range(len(hrefs)))
    listed = f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>"
    return epub(["<p>unused</p>"], more={"OEBPS/book.opf": listed} | (more or {}))


def workbook(rows: int, chance: random.Random) -> bytes:
    """A workbook of one number a row, so varied that it is not refused as a zip bomb."""
    cells = "".join(f"<row><c><v>{chance.getrandbits(16)}</v></c></row>" for _ in range(rows))
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
    package = "http://schemas.openxmlformats.org/package/2006/"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    about = "application/vnd.openxmlformats-officedocument.spreadsheetml."
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{package}content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
            'relationships+xml"/><Override PartName="/xl/workbook.xml" '
            f'ContentType="{about}sheet.main+xml"/><Override PartName="/xl/sheet1.xml" '
            f'ContentType="{about}worksheet+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{package}relationships"><Relationship Id="r1" '
            f'Target="xl/workbook.xml" Type="{kind}officeDocument"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{kind[:-1]}"><sheets>'
            '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}relationships">'
            f'<Relationship Id="r1" Target="sheet1.xml" Type="{kind}worksheet"/></Relationships>',
            "xl/sheet1.xml": SHEET.format(cells),
        }
    )


BROKEN_SLIDES = slides()
HURTFUL = {
    "bomb.docx": (docx(paragraph("a" * 40_000_000)), "decompressed bytes"),
    "laughs.docx": (docx(paragraph("&a9;"), prolog=laughing()), "declares a document type"),
    "nested.docx": (many_in_one(), "no Word document that can be read"),
    "deep.docx": (docx("<w:p>" * 50_000 + "</w:p>" * 50_000), "no Word document"),
    "rows.xlsx": (zipped({"xl/sheet1.xml": SHEET.format("<row/>" * 1_000_000)}), "decompressed"),
    "laughs.xlsx": (
        zipped({"xl/workbook.xml": f"{laughing()}<workbook>&a9;</workbook>"}),
        "declares a document type",
    ),
    "half.pptx": (BROKEN_SLIDES[: len(BROKEN_SLIDES) // 2], "no PowerPoint presentation"),
    "text.pptx": (b"PK\x03\x04 slides", "no PowerPoint presentation"),
    "absolute.epub": (outside("/etc/passwd"), "its file '/etc/passwd' is missing"),
    "above.epub": (outside("../../../etc/passwd"), "its file '../../etc/passwd' is missing"),
    "url.epub": (outside("file:///etc/passwd"), "is missing"),
    "device.epub": (outside("/dev/zero"), "is missing"),
}


def coded(data: bytes) -> str:
    return b64encode(data).decode()


@pytest.fixture(scope="module")
def target(grit: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = StoreAt(tmp_path_factory.mktemp("hostile") / "store")
    with served(grit, ServerConfig(port=0), None, store) as found:
        kept = {"documents": [{"id": "kept", "text": "Cats sleep."}]}
        found.http.post(DOCUMENTS, json=kept).raise_for_status()
        yield found


@pytest.mark.parametrize("name", HURTFUL)
def test_a_file_made_to_hurt_is_one_clear_error(target: Served, name: str):
    data, said = HURTFUL[name]
    response = target.http.post(DOCUMENTS, json={"files": [{"name": name, "data": coded(data)}]})
    assert response.status_code == 400, response.text
    answer = response.json()
    assert answer["error"]["code"] == "no_documents_added"
    (skipped,) = answer["skipped"]
    assert said in skipped["reason"]
    assert "\n" not in skipped["reason"]
    assert "root:" not in response.text
    listed = target.http.get(DOCUMENTS).json()["data"]
    assert [each["id"] for each in listed] == ["kept"]


def test_other_files_and_requests_are_untouched(target: Served):
    alone = target.http.post("/v1/chat/completions", json=CHAT).json()["choices"]
    files = [{"name": name, "data": coded(data)} for name, (data, _) in HURTFUL.items()]
    good = [{"name": "good.docx", "data": coded(docx(paragraph("Dogs run.")))}]
    with ThreadPoolExecutor(1) as pool:
        added = pool.submit(target.http.post, DOCUMENTS, json={"files": [*files, *good]})
        beside = [
            target.http.post("/v1/chat/completions", json=CHAT).json()["choices"] for _ in range(3)
        ]
        answer = added.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["documents"] == 1
    assert answer.json()["skipped_count"] == len(HURTFUL)
    assert [each[0]["message"] for each in beside] == [alone[0]["message"]] * 3
    assert target.http.delete(f"{DOCUMENTS}/good.docx").status_code == 200


def test_a_chapter_elsewhere_in_the_package_is_read_from_the_package(target: Served):
    book = outside("/etc/passwd", more={"/etc/passwd": "<p>Our own text.</p>"})
    files = {"files": [{"name": "own.epub", "data": coded(book)}]}
    assert target.http.post(DOCUMENTS, json=files).status_code == 200
    assert "Our own text." in texts(target)
    assert target.http.delete(f"{DOCUMENTS}/own.epub").status_code == 200


def test_entities_of_a_book_are_not_expanded(target: Served):
    book = epub([f"{laughing()}<p>&a9;</p><p>Cats.</p>"])
    files = {"files": [{"name": "laughs.epub", "data": coded(book)}]}
    assert target.http.post(DOCUMENTS, json=files).status_code == 200
    assert any("Cats." in text for text in texts(target))
    assert not any("haha" in text for text in texts(target))
    assert target.http.delete(f"{DOCUMENTS}/laughs.epub").status_code == 200


def texts(target: Served) -> set[str]:
    found = target.http.post("/v1/rag/search", json={"question": "text", "top_k": 9}).json()
    return {hit["text"] for hit in found["data"]}


@pytest.mark.slow
def test_a_workbook_of_a_million_rows_is_refused_or_read_in_its_time(target: Served):
    data = workbook(1_000_000, random.Random(0))
    body = {"files": [{"name": "rows.xlsx", "data": coded(data)}]}
    response = target.http.post(DOCUMENTS, json=body, timeout=120)
    assert response.status_code == 400, response.text
    assert "at most" in response.text or "too much memory" in response.text
    assert [each["id"] for each in target.http.get(DOCUMENTS).json()["data"]] == ["kept"]
    assert target.http.get("/health").status_code == 200
