"""Training and sample images: random crops of the photos that scikit-image ships, so that everything runs offline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage import data
from skimage.transform import resize

# Those that are part of the package; the others are downloaded on first use.
PHOTOS = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "retina", "rocket")
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def crops(count: int, size: int, seed: int, *, normalize: bool = True) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random square crops of the photos, each photo as often as the others, some mirrored.

    Args:
        count: number of images.
        size: side of an image in pixels.
        seed: of the random choice.
        normalize: with ImageNet's mean and deviation; otherwise values are 0..1.
    Returns: images (count, 3, size, size); the index of each image's photo in `PHOTOS`, (count,).
    """
    generator = np.random.default_rng(seed)
    photos = [_load(name) for name in PHOTOS]
    labels = np.arange(count) % len(PHOTOS)
    images = np.stack([_crop(photos[label], size, generator) for label in labels])
    if normalize:
        images = (images - IMAGENET_MEAN) / IMAGENET_STD
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32), labels


def _load(name: str) -> NDArray[np.uint8]:
    photo = getattr(data, name)()
    return np.stack([photo] * 3, axis=-1) if photo.ndim == 2 else photo[..., :3]


def _crop(photo: NDArray[np.uint8], size: int, generator: np.random.Generator) -> NDArray[np.float32]:
    shortest = min(photo.shape[:2])
    side = int(generator.uniform(0.4, 1.0) * shortest)
    top = int(generator.integers(0, photo.shape[0] - side + 1))
    left = int(generator.integers(0, photo.shape[1] - side + 1))
    window = photo[top : top + side, left : left + side]
    if generator.random() < 0.5:
        window = window[:, ::-1]
    return resize(window, (size, size), anti_aliasing=side > size).astype(np.float32)
