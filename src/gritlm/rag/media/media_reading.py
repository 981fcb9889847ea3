"""Options of the reading of images, sounds and pages from files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gritlm.errors import InputError
from gritlm.rag.types import MediaKind, ReaderName

if TYPE_CHECKING:
    from gritlm.lm.gritlm import GritLM
    from gritlm.lm.media.files import MediaRules

PAGE_READERS = ("pages", "pages-and-text")


@dataclass(frozen=True)
class MediaReading:
    """Options of the reading of images, sounds and pages.

    Attributes:
        kinds: kinds that the model reads.
        rules: limits on files, pixels and seconds.
        seconds: length of a window of sound, in seconds.
        reader: reader of files.
    """

    kinds: Collection[MediaKind]
    rules: MediaRules
    seconds: float
    reader: ReaderName = "standard"

    def endings(self) -> dict[str, MediaKind]:
        """Return the kind of each ending of a file's name that the model reads."""
        from gritlm.lm.media.files import ENDINGS

        return {name: kind for kind in self.kinds for name in sorted(ENDINGS[kind])}


def media_reading(model: GritLM, seconds: float, reader: ReaderName) -> MediaReading:
    """Return the options for a model.

    Args:
        model: the model.
        seconds: length of a window of sound, in seconds.
        reader: reader of files.

    Raises:
        InputError: for images of pages and a model that reads no images.
    """
    require_seeing(model, reader)
    kinds: list[MediaKind] = [] if model.senses is None else sorted(model.senses.kinds)
    return MediaReading(kinds, model.media_rules, seconds, reader)


def require_seeing(model: GritLM, reader: ReaderName) -> None:
    """Refuse images of pages for a model that reads no images.

    Args:
        model: the model.
        reader: reader of files.

    Raises:
        InputError: with the kinds that the model reads.
    """
    if reader in PAGE_READERS and (model.senses is None or "image" not in model.senses.kinds):
        raise InputError(
            f"the reader {reader} embeds images of pages, and {model.source} reads "
            f"{' and '.join(model.reads)} only; load a model that reads images, such as SmolVLM or "
            "Qwen2.5-VL, or use the reader standard"
        )
