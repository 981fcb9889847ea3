"""Small PDFs, made by hand."""

from __future__ import annotations

import zlib
from collections.abc import Sequence


def lines_pdf(pages: Sequence[str], *, copies: int = 1) -> bytes:
    """Return a PDF with these lines on its pages, compressed; each page so many times."""
    contents = []
    for page in pages:
        shown = " ".join(f"({line}) Tj T*" for line in page.split("\n"))
        contents.append(f"BT /F1 9 Tf 10 TL 9 800 Td {shown} ET".encode())
    return _pdf(contents, copies)


def slow_pdf() -> bytes:
    """Return a PDF of 360 KB that takes its reader 20 seconds or so.

    Its content is stored without compression: a small file that expands is refused.
    """
    return _pdf([b"BT /F1 9 Tf " + b"( )Tj " * 60_000 + b"ET"], 45, level=0)


def form_pdf(content: bytes, *, drawn: int, nested: int = 0, inherited: bool = False) -> bytes:
    """Return a PDF whose page draws a form with this content.

    Args:
        drawn: how often, in the page and in each form around the last one.
        nested: forms around the last one.
        inherited: the page has the form from the tree of pages.
    """
    draws = b"/F Do\n" * drawn
    fonts = b"/Font<</F1 3 0 R>>"
    forms = b"/Resources<<%s/XObject<</F 6 0 R>>>>" % fonts
    tree, page = (forms, b"") if inherited else (b"", forms)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 1/Kids[4 0 R]%s>>" % tree,
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]%s/Contents 5 0 R>>" % page,
        _stream(b"", draws),
    ]
    for number in range(nested):
        inner = b"/Resources<<%s/XObject<</F %d 0 R>>>>" % (fonts, 7 + number)
        objects.append(_stream(b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]" + inner, draws))
    last = b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<<%s>>" % fonts
    return _file([*objects, _stream(last, content)])


def _pdf(contents: Sequence[bytes], copies: int, *, level: int = -1) -> bytes:
    kids = " ".join(
        f"{4 + 2 * number} 0 R" for number in range(len(contents)) for _ in range(copies)
    )
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(contents) * copies}/Kids[{kids}]>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, content in enumerate(contents):
        objects += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 3 0 R>>>>"
            b"/Contents %d 0 R>>" % (5 + 2 * number),
            _stream(b"", content, level=level),
        ]
    return _file(objects)


def _stream(entries: bytes, content: bytes, *, level: int = -1) -> bytes:
    packed = zlib.compress(content, level)
    about = b"<<%s/Filter/FlateDecode/Length %d>>" % (entries, len(packed))
    return b"%sstream\n%s\nendstream" % (about, packed)


def _file(objects: Sequence[bytes]) -> bytes:
    data, places = b"%PDF-1.4\n", []
    for number, written in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj%sendobj\n" % (number, written)
    end = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, end)
