"""Thumbnails of samples that are images, as PNG files in data URIs. No image library is needed to write one."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SIZE = 40
"""Pixels of the longer side."""

_LEAST = 8
"""Something smaller along one side is no image."""


def thumbnail(sample: Mapping[str, NDArray]) -> str:
    """The first input that is an image, as a data URI; "" if none is."""
    for array in sample.values():
        image = _as_image(np.asarray(array))
        if image is not None:
            return "data:image/png;base64," + base64.b64encode(png(_scaled(image))).decode()
    return ""


def _as_image(array: NDArray) -> NDArray | None:
    """Height, width, 1 or 3 channels; of a batch the first."""
    if array.ndim != 4 or not array.shape[0]:
        return None
    first = array[0]
    if first.shape[-1] not in (1, 3, 4) or min(first.shape[:2]) < _LEAST:
        if first.shape[0] not in (1, 3, 4) or min(first.shape[1:]) < _LEAST:
            return None
        first = np.moveaxis(first, 0, -1)
    return first[..., :3]


def _scaled(image: NDArray) -> NDArray[np.uint8]:
    """Small, as bytes: the darkest value black, the lightest white."""
    step = min(max(1, -(-max(image.shape[:2]) // _SIZE)), min(image.shape[:2]))
    height, width = (size // step for size in image.shape[:2])
    cut = np.asarray(image[: height * step, : width * step], np.float32)
    small = cut.reshape(height, step, width, step, -1).mean((1, 3))
    low, high = float(small.min(initial=np.inf)), float(small.max(initial=-np.inf))
    return np.asarray(np.rint(255 * (small - low) / ((high - low) or 1.0)), np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file.

    Args:
        image: height, width, 1 or 3 channels.
    Source: PNG specification, second edition (RFC 2083): color types 0 and 2, filter 1 (difference to the left).
    """
    height, width, channels = image.shape
    left = np.pad(image, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    rows = np.concatenate([np.ones((height, 1), np.uint8), (image - left).reshape(height, -1)], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
