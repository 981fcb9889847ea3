"""Images and sounds of a workspace: their files, and the token ids by which their blocks are keyed.

A passage has ``<id>.png`` or ``<id>.wav``, and ``<id>.ids`` with its token ids as 64-bit integers.
The id of a passage follows from the content, so a file never changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from gritlm.atomic import replacing
from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.media.inputs import ImagePart, InputText, Part, SoundPart
from gritlm.lm.media.media_prompts import embedding_prompt
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import gritlm_instruction
from gritlm.rag.types import MediaKind, Passage

FOLDER = "media"
ENDINGS: dict[MediaKind, str] = {"image": ".png", "sound": ".wav"}
_ID = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"\.?(?P<id>[0-9a-f]{32})\.(ids|png|wav)(?P<temporary>\.[0-9a-f]{32}\.tmp)?")
_KNOWN = 4096  # passages whose token ids are kept in memory


class MediaLibrary:
    """Images and sounds of the passages of a workspace.

    Args:
        model: the model that embeds them.
        tokens: its tokenizer.
        place: folder of the workspace; None for a library that holds nothing.
    """

    def __init__(self, model: GritLM, tokens: SegmentTokenizer, place: Path | None) -> None:
        self._model = model
        self._tokens = tokens
        self._folder = None if place is None else place / FOLDER
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def has_folder(self) -> bool:
        """Whether there is a workspace to keep images and sounds in."""
        return self._folder is not None

    def ids(self, passage_id: str) -> tuple[int, ...] | None:
        """Return the token ids of an image or a sound; None for a passage that is neither."""
        if passage_id in self._known:
            return self._known[passage_id]
        path = self._path(passage_id, ".ids")
        if path is None:
            return None
        try:
            found = tuple(np.frombuffer(path.read_bytes(), dtype="<i8").tolist())
        except (OSError, ValueError):
            return None
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[passage_id] = found
        return found

    def content(self, passage_id: str) -> tuple[MediaKind, bytes] | None:
        """Return the kind of a passage's file and its bytes; None for a passage without a file."""
        for kind, ending in ENDINGS.items():
            path = self._path(passage_id, ending)
            if path is not None:
                with suppress(FileNotFoundError):
                    return kind, path.read_bytes()
        return None

    def save(self, passage: Passage, kind: MediaKind, data: bytes, ids: Iterable[int]) -> bool:
        """Write the file of a passage and its token ids; return whether they are new.

        Args:
            passage: the passage.
            kind: kind of the file.
            data: bytes of the file.
            ids: token ids of the passage, as it is embedded.
        """
        target = self._path(passage.id, ENDINGS[kind])
        numbers = self._path(passage.id, ".ids")
        if target is None or numbers is None:
            raise InputError("images and sounds are kept in a folder; open the engine with one")
        if target.is_file() and numbers.is_file():
            return False
        target.parent.mkdir(mode=0o700, exist_ok=True)
        # The ids last: a passage that has them has its file.
        for path, content in ((target, data), (numbers, np.asarray([*ids], "<i8").tobytes())):
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        return True

    def delete(self, passage_ids: Iterable[str]) -> None:
        """Delete the files of passages, of those that have some."""
        if self._folder is None or not self._folder.is_dir():
            return
        for passage_id in passage_ids:
            self._known.pop(passage_id, None)
            for ending in (".ids", *ENDINGS.values()):
                if (path := self._path(passage_id, ending)) is not None:
                    path.unlink(missing_ok=True)

    def prompt(self, title: str, kind: MediaKind, data: bytes) -> Prompt:
        """Return the prompt of an image or a sound, as it is embedded after its title.

        Args:
            title: title of the document; empty for none.
            kind: kind of the content.
            data: bytes of a PNG image or a WAV file.

        Raises:
            InputError: for content that the model does not take.
        """
        model = self._model
        frame = self._tokens.embedding_frame(
            instruction=gritlm_instruction(),
            end=model.settings.embed_eos,
            embed_instruction=False,
            specials=True,
        )
        return embedding_prompt(
            _parts(title, kind, data),
            name=f"the {kind}",
            tokens=self._tokens,
            senses=model.senses,
            frame=frame,
            max_length=model.lm.max_positions or 1 << 20,
            rules=model.media_rules,
        )

    def prompt_of(self, passage: Passage) -> Prompt:
        """Return the prompt of a passage that is an image or a sound.

        Raises:
            InputError: for a file that is missing, or is not the one that was indexed.
        """
        found = self.content(passage.id)
        ids = self.ids(passage.id)
        if found is None or ids is None:
            raise self._lost(passage)
        prompt = self.prompt(passage.title, *found)
        if tuple(prompt.ids) != ids:
            raise InputError(
                f"the file of passage {passage.id} in {self._folder} is not the one that was "
                f"indexed; index {passage.document_id!r} again"
            )
        return prompt

    def parts_of(self, passage: Passage) -> list[Part]:
        """Return the input of a passage that is an image or a sound.

        Raises:
            InputError: for a file that is missing.
        """
        found = self.content(passage.id)
        if found is None:
            raise self._lost(passage)
        return _parts(passage.title, *found)

    def _lost(self, passage: Passage) -> InputError:
        return InputError(
            f"passage {passage.id} has lost its file in {self._folder}; index "
            f"{passage.document_id!r} again"
        )

    def _path(self, passage_id: str, ending: str) -> Path | None:
        if self._folder is None or not _ID.fullmatch(passage_id):
            return None
        return self._folder / f"{passage_id}{ending}"


def delete_orphans(place: Path, known: Collection[str]) -> int:
    """Delete files that a killed process left: those of no passage, and temporary ones.

    Args:
        place: folder of a workspace that no other process writes to.
        known: ids of all passages of its index.

    Returns:
        The bytes of the files.
    """
    size = 0
    for path in (place / FOLDER).glob("*"):
        name = _FILE.fullmatch(path.name)
        if name is not None and (name["temporary"] or name["id"] not in known):
            size += path.stat().st_size
            path.unlink()
    return size


def _parts(title: str, kind: MediaKind, data: bytes) -> list[Part]:
    """Return the input of an image or a sound after a title."""
    name = f"the {kind}"
    part: Part = ImagePart(data, name) if kind == "image" else SoundPart(data, name)
    return [InputText(title), part] if title else [part]
