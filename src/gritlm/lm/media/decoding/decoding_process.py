"""The process that decodes the images and sounds of a request, with limits on memory and time.

Each request is a line of JSON and the bytes of a file; each reply a line of JSON and an array. A
file from outside can make a decoder take all memory, run for minutes or crash; then this process
ends, and no other.
"""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO

from gritlm.errors import InputError, MissingExtraError, one_line
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.images import decode_image
from gritlm.lm.media.inputs import ImagePart, SoundPart
from gritlm.lm.media.sounds import decode_sound
from gritlm.runtime import limit_process


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Decode files until there are no more.

    Args:
        source: requests.
        sink: takes the replies.
    """
    while line := source.readline():
        request = json.loads(line)
        content = source.read(request["size"])
        rules = MediaRules(
            most_bytes=request["most_bytes"],
            most_pixels=request["most_pixels"],
            longest_sound=request["longest_sound"],
        )
        try:
            found, array = _decoded(request["kind"], content, request["name"], rules)
        except (InputError, MissingExtraError) as error:
            found, array = {"error": str(error)}, b""
        except (MemoryError, RecursionError):
            found, array = {"error": f"{request['name']} takes too much memory to decode"}, b""
        except Exception as error:  # of decoders, in many types
            broken = f"{request['name']} is broken: {one_line(error)}"
            found, array = {"error": broken}, b""
        sink.write(json.dumps(found).encode() + b"\n")
        sink.write(array)
        sink.flush()


def _decoded(kind: str, content: bytes, name: str, rules: MediaRules) -> tuple[dict[str, Any], Any]:
    """Return the shape of a decoded array (and the rate of a sound), and its bytes."""
    if kind == "image":
        pixels = decode_image(ImagePart(content, name), rules).pixels
        return {"shape": pixels.shape}, pixels.tobytes()
    sound = decode_sound(SoundPart(content, name), rules)
    return {"shape": sound.samples.shape, "rate": sound.rate}, sound.samples.tobytes()


def _run(memory: str, seconds: str) -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints disturbs no reply
    with suppress(ImportError):  # each image then gets the reason
        from PIL import Image

        Image.init()  # all decoders are loaded while there is memory
    limit_process(int(memory), math.ceil(float(seconds)))
    main(sys.stdin.buffer, replies)


if __name__ == "__main__":
    _run(*sys.argv[1:])
