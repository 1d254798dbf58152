import base64
import struct
import zlib

import numpy as np
import pytest

from drpai_qat.report.page.pictures import png, thumbnail


def pixels(data):
    """Read what `png` writes."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, color = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 1).all()
    return np.cumsum(rows[:, 1:].reshape(height, width, 3 if color == 2 else 1), axis=1, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_png(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    assert (pixels(png(image)) == image).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 3, 224, 224), (37, 37, 3)), ((2, 28, 28, 1), (28, 28, 1)), ((1, 4, 16, 90), (5, 30, 3)),
                    ((1, 3, 8, 1000), (1, 125, 3))],
)  # fmt: skip
def test_images_become_small(shape, size):
    uri = thumbnail({"scalar": np.zeros(3), "x": np.random.default_rng(0).normal(size=shape).astype(np.float32)})
    found = pixels(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    assert found.shape == size
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("shape", [(1, 10), (1, 3, 4, 4), (1, 64, 28, 28), (0, 3, 32, 32), ()])
def test_other_inputs_do_not(shape):
    assert thumbnail({"x": np.zeros(shape, np.float32)}) == ""
