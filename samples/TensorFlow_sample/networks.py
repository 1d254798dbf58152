"""The samples' networks, by name: functional tf_keras models that return scores, for tfmot's `quantize_model`.

ResNet-50 and MobileNetV2 are those of keras.applications, whose ImageNet weights load; ResNet-18 and the two small ones
are defined here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from framework import keras

layers = keras.layers
Shape = tuple[int, int, int]

_MOMENTUM = 0.9  # of batch norm: Keras's 0.99 wants many more steps than a fine-tuning has
PIXELS = {"resnet50": "caffe", "mobilenet_v2": "tf"}
"""How a network's ImageNet weights want photos scaled, in the words of Keras's `preprocess_input`; else "torch"."""


def build(name: str, classes: int, shape: Shape) -> keras.Model:
    """Build a network with random weights.

    Args:
        name: one of `NAMES`.
        classes: number of outputs.
        shape: of an image, (height, width, channels).
    Returns: the network, float32; takes (batch, *shape), returns scores (batch, classes).
    Raises: KeyError: no such name.
    """
    keras.backend.reset_uids()  # layers have the same names in every run: weights are loaded by them
    model = _NETWORKS[name](classes, shape)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = _MOMENTUM
    return model


def imagenet(name: str) -> keras.Model:
    """A network of keras.applications with its ImageNet weights, downloaded.

    Raises: KeyError: keras.applications has no such network. Exception: no network to download from.
    """
    return _APPLICATIONS[name](weights="imagenet")


def _application(name: str) -> Callable[[int, Shape], keras.Model]:
    def network(classes: int, shape: Shape) -> keras.Model:
        return _APPLICATIONS[name](weights=None, input_shape=shape, classes=classes, classifier_activation=None)

    return network


def _resnet18(classes: int, shape: Shape) -> keras.Model:
    """ResNet-18, padded as torchvision's: 11.7 M parameters, 1.8 GMAC at 224x224."""
    image = keras.Input(shape)
    x = _conv_norm(layers.ZeroPadding2D(3)(image), 64, 7, 2, "valid")
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(layers.ReLU()(x)))
    for channels, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            x = _basic_block(x, channels, stride)
    scores = layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, scores, name="resnet18")


def _basic_block(x: Any, channels: int, stride: int) -> Any:
    out = layers.ReLU()(_conv_norm(x, channels, 3, stride))
    out = _conv_norm(out, channels, 3)
    if stride != 1 or x.shape[-1] != channels:
        x = _conv_norm(x, channels, 1, stride)
    return layers.ReLU()(layers.Add()([out, x]))


def _conv_norm(x: Any, channels: int, kernel: int, stride: int = 1, padding: str = "same") -> Any:
    x = layers.Conv2D(channels, kernel, stride, padding=padding, use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(epsilon=1e-5)(x)


def _small_cnn(classes: int, shape: Shape) -> keras.Model:
    """Three convolutions and a linear layer, 34 k parameters; sides are multiples of 16."""
    image = x = keras.Input(shape)
    for channels in (16, 32, 64):
        x = layers.ReLU()(_conv_norm(x, channels, 3))
        if channels < 64:
            x = layers.MaxPooling2D(2)(x)
    x = layers.AveragePooling2D((shape[0] // 16, shape[1] // 16))(x)
    return keras.Model(image, layers.Dense(classes)(layers.Flatten()(x)), name="small_cnn")


def _mnist_mlp(classes: int, shape: Shape) -> keras.Model:
    """Fully connected 784-128-64-10 network for one digit of 28x28."""
    image = keras.Input(shape)
    x = layers.Flatten()(image)
    for width in (128, 64):
        x = layers.Dense(width, activation="relu")(x)
    return keras.Model(image, layers.Dense(classes)(x), name="mnist_mlp")


_APPLICATIONS = {"resnet50": keras.applications.ResNet50, "mobilenet_v2": keras.applications.MobileNetV2}
_NETWORKS: dict[str, Callable[[int, Shape], keras.Model]] = {
    "resnet18": _resnet18,
    "resnet50": _application("resnet50"),
    "mobilenet_v2": _application("mobilenet_v2"),
    "small_cnn": _small_cnn,
    "mnist_mlp": _mnist_mlp,
}
NAMES = tuple(_NETWORKS)
