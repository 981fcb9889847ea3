"""Write trained projectors in float16 to the folder of a model's senses.

Usage: python recipes/senses/export.py IMAGE SOUND FOLDER

IMAGE is the output of image_decoder.py, SOUND that of sound_words.py; the package has the folder
src/gritlm/lm/media/projectors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import projector_states

from gritlm.lm.media.senses import Kind
from gritlm.lm.media.towers.projector_files import save_projector


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    kinds: tuple[Kind, ...] = ("image", "sound")
    for kind, file in zip(kinds, sys.argv[1:3], strict=True):
        projector = projector_states.load(Path(file))
        save_projector(projector.half(), kind, folder)


if __name__ == "__main__":
    main()
