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
    """Return a PDF of a few kilobytes that takes its reader a minute or so."""
    return _pdf([b"BT /F1 9 Tf " + b"( )Tj " * 400_000 + b"ET"], 20)


def _pdf(contents: Sequence[bytes], copies: int) -> bytes:
    kids = " ".join(
        f"{4 + 2 * number} 0 R" for number in range(len(contents)) for _ in range(copies)
    )
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(contents) * copies}/Kids[{kids}]>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, content in enumerate(contents):
        packed = zlib.compress(content)
        objects += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 3 0 R>>>>"
            b"/Contents %d 0 R>>" % (5 + 2 * number),
            b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(packed), packed),
        ]
    data, places = b"%PDF-1.4\n", []
    for number, written in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj%sendobj\n" % (number, written)
    end = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, end)
