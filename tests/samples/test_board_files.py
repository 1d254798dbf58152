"""The board's C++ runner on files of the user's: the numbers of the Python side, and one line whatever they hold."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import drpai_qat
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data.image_files import load_pixels
from drpai_qat.data.image_input import image_input
from drpai_qat.data.preprocessing import PRESETS, Preprocessing
from tests.runtimes.tampering import mutants
from tests.samples.board_runner import outcome
from tests.small_models import QDQ, qdq_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]

ORIENTATION = 0x0112
BYTES = (
    QDQ.replace("float[1,3,8,8] x) => (float[1,4] y)", "uint8[1,3,8,8] x) => (float[1,4] y, float[1,3,8,8] z)")
    .replace("  qx = QuantizeLinear (x,", "  r0 = Cast <to=1> (x)\n  z = Neg (r0)\n  qx = QuantizeLinear (r0,")
)  # fmt: skip
SIZES = ((61, 40), (7, 100), (200, 9), (1, 1), (33, 8), (8, 8))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network whose second output is its input with the other sign, bit for bit."""
    folder = tmp_path_factory.mktemp("mirror")
    text = QDQ.replace("=> (float[1,4] y)", "=> (float[1,4] y, float[1,3,8,8] z)").replace("\n}", "\n  z = Neg (x)\n}")
    (folder / "net.onnx").write_bytes(qdq_model(text).SerializeToString())
    drpai_qat.compile(folder / "net.onnx", qat_type="pytorch", output_dir=folder / "out", check="none")
    return folder / "out"


@pytest.fixture
def folder(mirror: Path, tmp_path: Path) -> Path:
    shutil.copytree(mirror, tmp_path / "out")
    return tmp_path / "out"


def record(folder: Path, how: Preprocessing) -> dict[str, Any]:
    taken = image_input((TensorInfo("x", (1, 3, 8, 8), "float32"),), how, "here").to_json()
    content = json.loads((folder / "deploy.json").read_text())
    (folder / "deploy.json").write_text(json.dumps({**content, "preprocessing": taken}))
    return taken


def ran(runner: Path, folder: Path, *files: Path) -> list[NDArray]:
    """What the network was fed with each file."""
    out = folder.parent / "y"
    assert outcome(runner, folder, *(word for file in files for word in ("-i", file)), "-o", out) == (0, "")
    names = ["output_1.bin"] if len(files) == 1 else [f"output_1_{k}.bin" for k in range(len(files))]
    return [-np.fromfile(out / name, "<f4").reshape(3, 8, 8) for name in names]


def noise(size: tuple[int, int], channels: int = 4) -> Image.Image:
    return Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (*size[::-1], channels), np.uint8))


def pngs(folder: Path) -> list[Path]:
    """PNG files of all kinds."""
    folder.mkdir()
    for size in SIZES:
        for mode in ("1", "L", "LA", "RGB", "RGBA"):
            noise(size).convert(mode).save(folder / f"{mode}_{size[0]}.png")
        palette = noise(size).convert("RGB").quantize(5)
        palette.save(folder / f"palette_{size[0]}.png")
        palette.save(folder / f"clear_{size[0]}.png", transparency=2)
    deep = np.random.default_rng(0).integers(0, 65536, (9, 11), np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    noise((9, 11)).convert("L").save(folder / "grey_key.png", transparency=5)
    noise((9, 11)).convert("RGB").save(folder / "color_key.png", transparency=(1, 2, 3))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        noise((5, 9)).convert("RGB").save(folder / f"turned_{orientation}.png", exif=exif)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "how",
    [
        *PRESETS.values(),
        Preprocessing(resize="crop", crop=0.9, interpolation="bicubic", color="bgr", mean=(0.1, 0.2, 0.3)),
        Preprocessing(resize="crop", crop=0.37, interpolation="area", std=(0.3, 0.7, 1.1)),
        Preprocessing(resize="letterbox", interpolation="nearest", pad=7),
        Preprocessing(resize="center", scale=1 / 127.5),
    ],
    ids=lambda how: f"{how.resize}-{how.interpolation}-{how.color}-{how.scale:.4f}",
)
def test_images_become_the_same_bits(runner: Path, folder: Path, tmp_path: Path, how: Preprocessing) -> None:
    record(folder, how)
    taken = image_input((TensorInfo("x", (1, 3, 8, 8), "float32"),), how, "here")
    files = pngs(tmp_path / "images")
    for path, got in zip(files, ran(runner, folder, *files), strict=True):
        np.testing.assert_array_equal(got, taken.array(load_pixels(path)), path.name)


def test_jpeg_is_within_three_of_255(runner: Path, folder: Path, tmp_path: Path) -> None:
    """stb_image and libjpeg round the transform and the colours differently. The pixels are looked at, unscaled."""
    taken = PRESETS["none"]
    record(folder, taken)
    smooth = noise((4, 4), 3).resize((8, 8), Image.Resampling.BICUBIC)
    for n, (subsampling, progressive) in enumerate([(0, False), (1, False), (2, True), (1, True)]):
        exif = Image.Exif()
        exif[ORIENTATION] = 1 + n * 2
        for kind, image in (("color", smooth), ("grey", smooth.convert("L"))):
            options: dict[str, Any] = {} if kind == "grey" else {"subsampling": subsampling}
            path = tmp_path / f"{kind}.jpg"
            image.save(path, quality=80 + n, progressive=progressive, exif=exif, **options)
            (got,) = ran(runner, folder, path)
            want = image_input((TensorInfo("x", (1, 3, 8, 8), "float32"),), taken, "here").array(load_pixels(path))
            assert np.abs(got - want).max() <= 3, path.name


@pytest.mark.parametrize(
    ("form", "io", "how", "output"),
    [(QDQ, "int8", PRESETS["imagenet"], 0), (BYTES, "source", PRESETS["none"], 1)],
    ids=["grid", "bytes"],
)
def test_inputs_of_integers(runner: Path, tmp_path: Path, form: str, io: str, how: Preprocessing, output: int) -> None:
    """Places on the input's trained grid; and pixels, where a network begins with its own normalization."""
    (tmp_path / "net.onnx").write_bytes(qdq_model(form).SerializeToString())
    out = tmp_path / "out"
    drpai_qat.compile(tmp_path / "net.onnx", qat_type="pytorch", output_dir=out, check="none", io=io)
    (info,) = drpai_qat.load(out).inputs
    assert info.dtype in ("int8", "uint8")
    taken = image_input([info], how, "here")
    content = json.loads((out / "deploy.json").read_text())
    (out / "deploy.json").write_text(json.dumps({**content, "preprocessing": taken.to_json()}))
    noise((61, 40)).save(tmp_path / "photo.png")
    assert outcome(runner, out, "-i", tmp_path / "photo.png", "-o", tmp_path / "y") == (0, "")
    found = drpai_qat.load(out).run({"x": taken.array(load_pixels(tmp_path / "photo.png"))[None]})
    want = np.asarray(list(found.values())[output], np.float32)
    np.testing.assert_array_equal(np.fromfile(tmp_path / f"y/output_{output}.bin", "<f4"), want.reshape(-1))


def test_arrays(runner: Path, folder: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    one, two = (draw.normal(size=(n, 3, 8, 8)).astype(np.float32) for n in (1, 2))
    np.save(tmp_path / "one.npy", one[0])
    np.savez(tmp_path / "plain.npz", x=one)
    np.savez_compressed(tmp_path / "packed.npz", x=np.round(one, 1))
    one.tofile(tmp_path / "raw.bin")
    np.save(tmp_path / "wide.npy", one.astype(np.float64))
    names = ("one.npy", "plain.npz", "raw.bin", "wide.npy", "packed.npz")
    *same, packed = ran(runner, folder, *(tmp_path / name for name in names))
    for got in same:
        np.testing.assert_array_equal(got, one[0])
    np.testing.assert_array_equal(packed, np.round(one, 1)[0])
    np.save(tmp_path / "two.npy", two)
    assert outcome(runner, folder, "-i", tmp_path / "two.npy", "-o", tmp_path / "y") == (0, "")
    for k in range(2):
        np.testing.assert_array_equal(-np.fromfile(tmp_path / f"y/output_1_{k}.bin", "<f4"), two[k].reshape(-1))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("x.npy", np.zeros((1, 3, 8, 9), np.float32), "has shape [1, 3, 8, 9], and the network takes [1, 3, 8, 8]"),
        ("x.npy", np.zeros((1, 3, 8, 8), np.uint8), "convert it as in training"),
        ("x.npy", np.full((1, 3, 8, 8), np.nan, np.float32), "NaN or infinite"),
        ("x.npy", np.zeros((3, 8, 8), ">f4"), "big-endian"),
        ("x.npy", np.asfortranarray(np.zeros((3, 8, 8), np.float32)), "column by column"),
        ("x.npy", np.zeros(2, "S3"), "numbers of type S3"),
        ("x.bin", np.zeros(7, np.float32), "has shape [7]"),
    ],
)
def test_arrays_that_do_not_fit(
    runner: Path, folder: Path, tmp_path: Path, name: str, array: NDArray, says: str
) -> None:
    path = tmp_path / name
    array.tofile(path) if name.endswith("bin") else np.save(path, array)
    status, text = outcome(runner, folder, "-i", path)
    assert status == 1
    assert says in text


def test_damaged_files(runner: Path, folder: Path, tmp_path: Path) -> None:
    record(folder, PRESETS["imagenet"])
    draw = random.Random(0)
    photo, packed = io.BytesIO(), io.BytesIO()
    noise((61, 40)).convert("RGB").save(photo, "JPEG", progressive=True)
    np.savez_compressed(packed, x=np.zeros((1, 3, 8, 8), np.float32))
    wholes = {path.name: path.read_bytes() for path in pngs(tmp_path / "images") if path.stem.endswith(("40", "61"))}
    wholes |= {"turned.png": (tmp_path / "images/turned_6.png").read_bytes(), "photo.jpg": photo.getvalue()}
    wholes |= {"packed.npz": packed.getvalue()}
    for n in range(150):
        name, whole = draw.choice(sorted(wholes.items()))
        changed = bytearray(whole[: draw.randrange(len(whole))] if n % 5 == 0 else whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(changed)) if changed else 0
            changed[at : at + 4] = draw.choice([draw.randbytes(1), b"\xff" * 4, b"\0" * 4, draw.randbytes(9)])
        path = tmp_path / name
        path.write_bytes(checksummed(bytes(changed)) if name.endswith("png") and n % 3 else bytes(changed))
        assert outcome(runner, folder, "-i", path)[0] in (0, 1)


def checksummed(png: bytes) -> bytes:
    """With the checksums that its chunks would have, so that the decoder sees the damage."""
    made, at = png[:8], 8
    while at + 12 <= len(png):
        size = min(int.from_bytes(png[at : at + 4], "big"), len(png) - at - 12)
        made += chunk(png[at + 4 : at + 8], png[at + 8 : at + 8 + size])
        at += 12 + size
    return made


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_files_that_claim_too_much(runner: Path, folder: Path, tmp_path: Path) -> None:
    """Little memory, and little time: no size is believed before it was held against the file."""
    record(folder, PRESETS["imagenet"])
    files = {
        "wide.png": png(65535, 65535, b"\0"),
        "huge.png": png(1 << 31, 1 << 31, b"\0"),
        "bomb.png": png(1, 1, b"\0" * (300 << 20)),
        "long.png": png(1, 60_000, b"\0\1\2\3" * 60_000),
        "empty.png": b"",
        "large.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\3\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\2\xff\xd9",
    }
    whole = io.BytesIO()
    np.savez_compressed(whole, x=np.zeros((1, 3, 8, 8), np.float32))
    claims = whole.getvalue().replace(struct.pack("<I", 128 + 4 * 192), struct.pack("<I", 0x7FFFFFF0))
    assert claims != whole.getvalue()
    for name, content in {**files, "claims.npz": claims}.items():
        (tmp_path / name).write_bytes(content)
        assert outcome(runner, folder, "-i", tmp_path / name)[0] == (name != "long.png"), name


def test_records_that_were_tampered_with(runner: Path, folder: Path, tmp_path: Path) -> None:
    taken = record(folder, PRESETS["imagenet"])
    path, photo = folder / "deploy.json", tmp_path / "photo.png"
    noise((61, 40)).save(photo)
    whole = json.loads(path.read_text())
    changes = [changed for _, changed in mutants(taken)]
    changes += [taken | change for change in ({"crop": 1e-300}, {"scale": 1e300}, {"size": [0, 0]}, {"later": 1})]
    for changed in random.Random(0).sample(changes[:-4], 100) + changes[-4:]:
        path.write_text(json.dumps({**whole, "preprocessing": changed}))
        outcome(runner, folder, "-i", photo)
    assert "is not known here" in outcome(runner, folder, "-i", photo)[1]


def test_what_is_asked_for(runner: Path, folder: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    noise((61, 40)).save(photo)
    assert "does not record how an image becomes" in outcome(runner, folder, "-i", photo)[1]
    assert "-o is the network's own folder" in outcome(runner, folder, "-o", folder / ".")[1]
    assert "can't be opened" in outcome(runner, folder, "-i", tmp_path / "none.png")[1]
