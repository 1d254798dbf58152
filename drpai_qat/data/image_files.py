"""Image files as pixels. The one module that imports Pillow, which the extra `images` brings."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import MissingExtraError, OptionError
from drpai_qat.core.text import listed, one_line

Pixels = NDArray[np.uint8]
"""(height, width, channels): grey, RGB or RGBA."""

_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""Weights of red, green and blue in grey, of 2^16: those of ITU-R 601, as Pillow has them."""


class UnreadableImageError(Exception):
    """A file that holds no image, or a damaged one; the message says why."""


class _Unwarned:
    """No warnings of large images and odd EXIF: either a file can be read or it can't.

    Filters are the process's: the first thread inside sets them, the last one gives back what was.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._turn:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._turn:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_unwarned = _Unwarned()


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{one_line(self.name)} ({self.why})"


def skipped_text(skipped: Sequence[Skipped]) -> str:
    """One line on files that were left out; "" if there are none."""
    if not skipped:
        return ""
    return f"{len(skipped)} file{'s' * (len(skipped) > 1)} skipped: {listed([str(one) for one in skipped])}"


def find_files(folder: Path, option: str) -> list[Path]:
    """All files in a folder and below it, by name, but hidden ones; whether they are images shows when they are read.

    Raises: OptionError: there is no such folder, or nothing in it.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise OptionError(f"{option} {folder}: no such folder")
    try:
        found = [path for path in folder.rglob("*") if path.is_file()]
    except OSError as error:
        raise OptionError(f"{option} {folder}: can't be read: {error.strerror}") from None
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not shown:
        raise OptionError(f"{option} {folder}: no file in it")
    return sorted(shown)


def load_pixels(path: Path) -> Pixels:
    """Decode an image: upright, 8 bits, grey, RGB or RGBA.

    Raises: UnreadableImageError: it is none, or damaged. MissingExtraError: Pillow is not installed.
    """
    image_module = pillow()
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with _unwarned, image_module.open(path) as image:
            wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
            return _as_pixels(ImageOps.exif_transpose(image), wide)
    except UnidentifiedImageError:
        raise UnreadableImageError("no image") from None
    except UnreadableImageError:
        raise
    except Exception as error:  # damaged files make decoders raise almost anything
        raise UnreadableImageError(f"damaged: {one_line(error, 80) or type(error).__name__}") from None


def _as_pixels(image: Any, wide: bool) -> Pixels:
    """An image of any of Pillow's modes; `wide`: of 16 bits a pixel."""
    if wide:
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return np.asarray((values + 128) // 257, np.uint8)[..., None]
    if image.mode in ("I", "F"):
        raise UnreadableImageError("32 bits a pixel: save it with 8 or 16")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("LA", "PA", "La", "RGBa") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """The same image in 1, 3 or 4 channels. Alpha is dropped, or full, as torchvision and Keras have it."""
    have = pixels.shape[2]
    if have == channels:
        return pixels
    if channels == 1:
        grey = (pixels[..., :3].astype(np.uint32) @ _LUMA + 0x8000) >> 16
        return np.asarray(grey, np.uint8)[..., None]
    color = np.repeat(pixels, 3, axis=2) if have == 1 else pixels[..., :3]
    if channels == 3:
        return color
    return np.concatenate([color, np.full((*color.shape[:2], 1), 255, np.uint8)], axis=2)


def resized(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """Scale to (height, width), each channel on its own; first along the rows, then along the columns.

    Pillow 13 goes along the columns first where an image is to lose more height than width, which rounds differently:
    two calls keep the order of all versions before, with which networks were trained, and of the board's runner.

    Raises: MissingExtraError: Pillow is not installed, and the size is another.
    """
    if pixels.shape[:2] == size:
        return pixels
    image = pillow()
    how = image.Resampling[
        {"bilinear": "BILINEAR", "nearest": "NEAREST", "bicubic": "BICUBIC", "area": "BOX"}[interpolation]
    ]
    planes = [image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(pixels.shape[2])]
    scaled = [plane.resize((size[1], pixels.shape[0]), how).resize(size[::-1], how) for plane in planes]
    return np.stack([np.asarray(plane) for plane in scaled], axis=2)


def pillow() -> Any:
    """Pillow's Image module.

    Raises: MissingExtraError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"{error}: images need Pillow: pip install 'drpai-qat[images]'") from None
    return Image
