"""Decoding of images, within limits: upright, RGB, the first frame, transparent parts white."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gritlm.errors import InputError, MissingExtraError, one_line, require_libraries
from gritlm.lm.media.files import DecodedImage, MediaRules, WebAddress, file_bytes, is_heif
from gritlm.lm.media.inputs import ImagePart

if TYPE_CHECKING:
    from PIL import Image as Pillow

# Formats whose decoders read pixels only. Others run programs (PostScript) or follow references.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
_LEAST = 1


def decode_image(part: ImagePart, rules: MediaRules) -> DecodedImage:
    """Return the pixels of an image.

    Args:
        part: the image.
        rules: limits.

    Raises:
        InputError: for an image that is broken, too large, or in a format that is not read.
        MissingExtraError: when the library for its format is not installed.
    """
    require_libraries(["PIL"], what="reading images needs", extra="media")
    source = part.source
    if isinstance(source, np.ndarray):
        return DecodedImage(_pixels(source, part.name, rules))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on damaged metadata
        if not isinstance(source, Path | WebAddress | bytes):
            return DecodedImage(_upright(source, part.name, rules))
        content = file_bytes(source, part.name, rules)
        return DecodedImage(_upright(_opened(content, part.name), part.name, rules))


def png_of(image: DecodedImage) -> bytes:
    """Return an image as a PNG file."""
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(image.pixels).save(file, "PNG")
        return file.getvalue()


def _opened(content: bytes, name: str) -> Pillow.Image:
    from PIL import Image, UnidentifiedImageError

    if is_heif(content[:16]):
        return _opened_heif(content, name)
    Image.init()
    formats = [each for each in _FORMATS if each in Image.OPEN]
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not an image that is read here; expected {', '.join(formats)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is refused: {one_line(error)}") from None
    except Exception as error:  # decoders raise errors of any type
        raise InputError(f"{name} is broken: {one_line(error)}") from None


def _opened_heif(content: bytes, name: str) -> Pillow.Image:
    if find_spec("pillow_heif") is None:
        raise MissingExtraError(
            f"{name} is a HEIC image, which needs pillow-heif; install it (pip install "
            "pillow-heif), or save the image as JPEG"
        )
    import pillow_heif

    try:
        return pillow_heif.open_heif(content).to_pillow()
    except Exception as error:
        raise InputError(f"{name} is broken: {one_line(error)}") from None


def _upright(image: Pillow.Image, name: str, rules: MediaRules) -> Any:
    """Return the pixels of the first frame, turned as its metadata says."""
    from PIL import Image, ImageOps

    _require_size(image.height, image.width, name, rules)
    try:
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
        image.load()
        upright = ImageOps.exif_transpose(image)
        return np.array(_rgb(upright), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is refused: {one_line(error)}") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of any type
        raise InputError(f"{name} is broken: {one_line(error)}") from None


def _rgb(image: Pillow.Image) -> Pillow.Image:
    """Return an image as RGB: 16 bits scaled to 8, transparent parts white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, also in 32-bit pixels
        grey = np.asarray(image).astype(np.int64)
        top = 0xFFFF if grey.size and grey.max() > 0xFF else 0xFF
        scaled = grey.clip(0, top) * 0xFF // top
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError("an image with floating-point pixels is not read; save it with 8 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")


def _pixels(array: Any, name: str, rules: MediaRules) -> Any:
    """Return an array of pixels (H, W), (H, W, 3) or (H, W, 4) as RGB."""
    from PIL import Image

    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (3,), (4,))
    ):
        raise InputError(
            f"{name} is an array of shape {array.shape} and type {array.dtype}; expected pixels "
            "(height, width, 3), uint8"
        )
    _require_size(array.shape[0], array.shape[1], name, rules)
    return np.array(_rgb(Image.fromarray(array)), dtype=np.uint8)


def _require_size(height: int, width: int, name: str, rules: MediaRules) -> None:
    if min(height, width) < _LEAST:
        raise InputError(f"{name} has {width} x {height} pixels; expected at least one")
    if height * width > rules.most_pixels:
        raise InputError(
            f"{name} has {width} x {height} pixels, at most {rules.most_pixels:,} are read; "
            "reduce its size"
        )
