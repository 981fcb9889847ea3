"""Compute the features of the image tower for pictures: OUT.npy (N, M, F) in float16.

Usage: python recipes/senses/image_features.py TOWERS LIST OUT [--mirrored]

TOWERS is the folder that `gritlm pull senses` prints; LIST has a path in each line.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.images import decode_image
from gritlm.lm.media.inputs import ImagePart
from gritlm.lm.media.towers import efficientnet, published

_BATCH = 16


def main() -> None:
    """Write the features of all pictures."""
    torch.set_num_threads(1)
    towers, listed, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    mirrored = "--mirrored" in sys.argv
    image, _ = published.towers(towers)
    paths = listed.read_text(encoding="utf-8").splitlines()
    shape = (len(paths), efficientnet.GRID**2, efficientnet.FEATURES)
    target = np.lib.format.open_memmap(out, "w+", np.float16, shape)
    for start in range(0, len(paths), _BATCH):
        pixels = []
        for path in paths[start : start + _BATCH]:
            one = decode_image(ImagePart(Path(path), path), MediaRules()).pixels
            pixels.append(efficientnet.prepared(one[:, ::-1] if mirrored else one))
        target[start : start + len(pixels)] = image(torch.from_numpy(np.stack(pixels))).numpy()
    target.flush()


if __name__ == "__main__":
    main()
