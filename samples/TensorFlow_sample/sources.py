"""The usual data sets as folders, in torchvision's layout; downloaded where they are missing and there is a network.

Each function returns (train, test), each the images or paths with int64 labels. They raise OSError where a folder is
missing and can't be downloaded, ValueError where it is not what it should be.
"""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from framework import keras
from numpy.typing import NDArray

Labeled = tuple[NDArray[Any], NDArray[np.int64]]

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_FOOD101 = "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
_PHOTOS = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}


def mnist(folder: Path) -> tuple[Labeled, Labeled]:
    """MNIST: uint8 images (N, 28, 28, 1), in DIR/MNIST/raw."""
    raw = folder / "MNIST" / "raw"
    train, test = (
        (_idx(raw, f"{name}-images-idx3-ubyte")[..., None], _idx(raw, f"{name}-labels-idx1-ubyte").astype(np.int64))
        for name in ("train", "t10k")
    )
    return train, test


def cifar10(folder: Path) -> tuple[Labeled, Labeled]:
    """CIFAR-10: uint8 images (N, 32, 32, 3), in DIR/cifar-10-batches-py."""
    _download(folder, _CIFAR10, folder / "cifar-10-batches-py")
    train = [_cifar_batch(folder / "cifar-10-batches-py" / f"data_batch_{index}") for index in range(1, 6)]
    images, labels = zip(*train, strict=True)
    test = _cifar_batch(folder / "cifar-10-batches-py" / "test_batch")
    return (np.concatenate(images), np.concatenate(labels)), test


def food101(folder: Path) -> tuple[Labeled, Labeled]:
    """Food-101: paths, in DIR/food-101 with its lists in meta/train.txt and meta/test.txt."""
    root = folder / "food-101"
    _download(folder, _FOOD101, root)
    lists = [(root / "meta" / f"{name}.txt").read_text().split() for name in ("train", "test")]
    classes = sorted({line.partition("/")[0] for line in lists[0]})
    train, test = (
        _labeled([(root / "images" / f"{line}.jpg", classes.index(line.partition("/")[0])) for line in lines])
        for lines in lists
    )
    return train, test


def imagefolder(folder: Path) -> tuple[Labeled, Labeled]:
    """A folder for each class: paths, in DIR/train/CLASS and DIR/val/CLASS or DIR/test/CLASS."""
    held_out = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), folder / "val")
    for part in (folder / "train", held_out):
        if not part.is_dir():
            raise FileNotFoundError(f"no folder {part}")
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    train, test = (_labeled(_photos_of(part, classes)) for part in (folder / "train", held_out))
    return train, test


def _photos_of(part: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((part / name).glob("**/*"))
        if path.suffix.lower() in _PHOTOS
    ]
    if not found:
        raise ValueError(f"{part} holds no photos in folders of classes")
    return found


def _labeled(photos: list[tuple[Path, int]]) -> Labeled:
    return np.array([str(path) for path, _ in photos]), np.array([label for _, label in photos], np.int64)


def _idx(raw: Path, name: str) -> NDArray[np.uint8]:
    """One file of MNIST: a header with the number of dimensions and their sizes, then bytes."""
    path = next((path for path in (raw / name, raw / f"{name}.gz") if path.is_file()), None)
    if path is None:
        path = raw / f"{name}.gz"
        _download(raw, f"{_MNIST}/{name}.gz", path)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rank = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", rank, 4)
    if not rank or len(content) != 4 + 4 * rank + shape.prod():
        raise ValueError(f"{path} is damaged: not the size that its header says")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _cifar_batch(path: Path) -> Labeled:
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    return content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(content["labels"], np.int64)


def _download(folder: Path, url: str, target: Path) -> None:
    """Fetch, and unpack an archive, unless `target` is there."""
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        keras.utils.get_file(
            Path(url).name, url, cache_dir=str(folder), cache_subdir="", extract=url.endswith("tar.gz")
        )
    except Exception as error:  # Keras raises a bare Exception
        raise FileNotFoundError(f"no {target}, and no network to download it: {str(error)[:80]}") from error
