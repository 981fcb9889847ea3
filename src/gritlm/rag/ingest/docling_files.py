"""Reader of PDF files and scans by docling, which recognises layout, tables and text in images."""

from __future__ import annotations

from io import BytesIO

from gritlm.errors import DownloadError, InputError, first_line, require_libraries
from gritlm.lm.hub.quiet import only_errors
from gritlm.rag.ingest.file_content import FileContent, check_growth, whole

ENDINGS = (".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MODELS = "DOCLING_ARTIFACTS_PATH"  # variable of docling with the folder of its models


def require() -> None:
    """Require docling.

    Raises:
        MissingExtraError: naming the extra that brings it.
    """
    require_libraries(("docling",), what="the reader docling needs", extra="docling")


def read(ending: str, data: bytes) -> FileContent:
    """Return the text of a file as Markdown, in reading order, with its tables.

    Args:
        ending: ending of the file's name, one of ``ENDINGS``.
        data: bytes of the file.

    Raises:
        InputError: if docling cannot read the file, or finds no text in it.
        DownloadError: if the models of docling are not on this machine.
        MissingExtraError: without docling.
    """
    require()
    from docling.datamodel.base_models import DocumentStream
    from docling.document_converter import DocumentConverter
    from docling.exceptions import ConversionError

    source = DocumentStream(name=f"file{ending}", stream=BytesIO(data))
    try:
        with only_errors("docling"):
            document = DocumentConverter().convert(source).document
    except ConversionError as error:
        raise InputError(f"docling cannot read it: {first_line(error, limit=200)}") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise _without_models(error) from error
    text = whole(document.export_to_markdown(image_placeholder="")).strip()
    if not text:
        raise InputError("docling found no text in it")
    check_growth(len(text), len(data), "characters of text")
    return FileContent(text, markdown=True)


def _without_models(error: Exception) -> DownloadError:
    return DownloadError(
        f"the models of docling cannot be loaded ({type(error).__name__}: "
        f"{first_line(error, limit=200)}); run docling-tools models download where there is a "
        f"network, and set {MODELS} to the folder that it prints"
    )
