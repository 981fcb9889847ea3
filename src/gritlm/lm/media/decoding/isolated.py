"""Decoding of images and sounds from outside in processes of their own, one for each request."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from gritlm.errors import InputError
from gritlm.lm.media.files import DecodedImage, DecodedSound, MediaRules, file_bytes
from gritlm.lm.media.inputs import ImagePart, MediaPart
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.media.sounds import most_samples

SECONDS = 60.0  # for all images and sounds of a request; its addresses have as many to be fetched
_BASE_BYTES = 512 * 2**20  # memory of a process that decodes nothing, with room for sounds
_PIXEL_BYTES = 24  # memory for a pixel: the image and its copies in other modes
_LINE = 2**16  # most bytes of the first line of a reply


class DecodingProcesses:
    """Processes that decode, with limits on memory and time; safe in several threads."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def rules(self, rules: MediaRules, *, most_tokens: int) -> Iterator[MediaRules]:
        """Yield the rules of a request, by which its images and sounds are decoded in a process.

        The process starts with the first of them, and ends with the context.

        Args:
            rules: limits and permissions; ``most_parts`` holds for the whole request.
            most_tokens: most tokens of all images and sounds of the request. They bound the memory
                of the inputs of the towers.
        """
        decoder = _Decoder(self, rules, most_tokens)
        try:
            yield replace(rules, decoder=decoder, spend=decoder.spend)
        finally:
            decoder.close()

    def close(self) -> None:
        """Kill the processes, with the files that they are decoding."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def start(self, memory: int) -> subprocess.Popen[bytes]:
        """Start a process.

        Args:
            memory: most bytes of its memory.
        """
        own = {name: value for name, value in os.environ.items() if not name.startswith("GRITLM_")}
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "gritlm.lm.media.decoding.decoding_process",
                str(memory),
                str(SECONDS),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**own, "OPENBLAS_NUM_THREADS": "1"},  # each thread of it reserves memory
            start_new_session=True,  # ctrl-C reaches the server alone, which finishes its requests
        )
        with self._lock:
            self._running.add(process)
            if self._closed:
                process.kill()
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process, whatever it does."""
        process.kill()
        process.communicate()
        with self._lock:
            self._running.discard(process)


class _Decoder:
    """Decoder of the images and sounds of one request."""

    def __init__(self, processes: DecodingProcesses, rules: MediaRules, most_tokens: int) -> None:
        self._processes = processes
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None
        self._late = False
        self._fetching = SECONDS
        self._left = rules.most_parts
        self._most = rules.most_parts
        self._tokens = 0
        self._most_tokens = most_tokens

    def spend(self, found: MediaTokens) -> None:
        """Count the tokens of an image or a sound.

        Raises:
            InputError: when the request has too many.
        """
        self._tokens += len(found.ids)
        if self._tokens > self._most_tokens:
            raise InputError(
                f"the images and sounds up to it have {self._tokens} tokens, the request may have "
                f"{self._most_tokens}; send fewer of them, or smaller ones"
            )

    def __call__(self, part: MediaPart, rules: MediaRules) -> DecodedImage | DecodedSound:
        """Return the pixels of an image, or the samples of a sound.

        Raises:
            InputError: for content that is broken, exceeds the limits or ends the process.
        """
        if self._left == 0:
            raise InputError(
                f"the request has more than {self._most} images and sounds, which are not read; "
                "send several requests"
            )
        self._left -= 1
        started = time.monotonic()
        content = file_bytes(part.source, part.name, rules, seconds=self._fetching)
        self._fetching -= time.monotonic() - started
        is_image = isinstance(part, ImagePart)
        header = {
            "kind": "image" if is_image else "sound",
            "name": part.name,
            "size": len(content),
            "most_bytes": rules.most_bytes,
            "most_pixels": rules.most_pixels,
            "longest_sound": rules.longest_sound,
        }
        most = rules.most_pixels * 3 if is_image else 4 * most_samples(rules)
        try:
            reply, array = self._exchange(header, content, rules, most)
        except (OSError, ValueError, KeyError):
            raise InputError(f"{part.name} is not read: {self._reason()}") from None
        if "error" in reply:
            raise InputError(str(reply["error"]))
        if is_image:
            return DecodedImage(array.view(np.uint8).reshape(reply["shape"]))
        return DecodedSound(array.view(np.float32), int(reply["rate"]))

    def _exchange(
        self, header: dict[str, Any], content: bytes, rules: MediaRules, most: int
    ) -> tuple[dict[str, Any], Any]:
        """Return the first line of a reply, and the bytes of its array."""
        process = self._process or self._started(rules)
        assert process.stdin is not None, "it has a pipe"
        assert process.stdout is not None, "it has a pipe"
        process.stdin.write(json.dumps(header).encode() + b"\n")
        process.stdin.write(content)
        process.stdin.flush()
        reply = json.loads(process.stdout.readline(_LINE))
        if "error" in reply:
            return reply, b""
        size = math.prod(reply["shape"]) * (4 if "rate" in reply else 1)
        array = bytearray(min(size, most))
        if size > most or process.stdout.readinto(array) != size:  # type: ignore[attr-defined]
            raise ValueError("the reply has another size")
        return reply, np.frombuffer(array, dtype=np.uint8)

    def _started(self, rules: MediaRules) -> subprocess.Popen[bytes]:
        self._process = self._processes.start(_BASE_BYTES + _PIXEL_BYTES * rules.most_pixels)
        self._timer = threading.Timer(SECONDS, self._kill)
        self._timer.daemon = True
        self._timer.start()
        return self._process

    def _kill(self) -> None:
        self._late = True
        if self._process is not None:
            self._process.kill()

    def _reason(self) -> str:
        if self._late:
            return f"images and sounds of a request have {SECONDS:g} seconds to be decoded"
        return "the process that decodes it broke down; save it again, or make it smaller"

    def close(self) -> None:
        """End the process."""
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            self._processes.end(self._process)
