"""What tfmot needs around `quantize_model`: ranges that fit the data before training, and again after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from framework import keras, tf, tfmot
from tensorflow_model_optimization.python.core.quantization.keras import quant_ops


def quantize(model: keras.Model, batches: Sequence[tf.Tensor]) -> keras.Model:
    """A QAT copy of a float network with tfmot's 8-bit scheme, its ranges set from data.

    Weights are int8 per output channel (per tensor for linear layers), activations uint8 with a zero point.

    Args:
        model: functional or sequential tf_keras model.
        batches: float32 images.
    """
    quantized = tfmot.quantization.keras.quantize_model(model)
    settle_ranges(quantized, batches)
    return quantized


def settle_ranges(model: keras.Model, batches: Sequence[tf.Tensor]) -> None:
    """Take the activation ranges anew, as the mean over `batches`; weights and batch norm stay as they are.

    tfmot starts every range at -6..6 and forgets 0.1% of it a step. After a short training it is still far from what
    the network computes, with batch norm's running statistics in particular.
    """
    norms = [layer for layer in model.layers if isinstance(_inner(layer), keras.layers.BatchNormalization)]
    trained = [layer.trainable for layer in norms]
    for layer in norms:
        layer.trainable = False  # then it computes with its running statistics, and keeps them
    for index, batch in enumerate(batches):
        with _averaging(index / (index + 1)):
            model(batch, training=True)  # eagerly, or the decay would stay that of the first batch
    for layer, trainable in zip(norms, trained, strict=True):
        layer.trainable = trainable


def _inner(layer: keras.layers.Layer) -> keras.layers.Layer:
    return getattr(layer, "layer", layer)


@contextmanager
def _averaging(decay: float) -> Iterator[None]:
    """Moving averages that keep `decay` of what they had; tfmot writes 0.999 and has no argument for it."""
    original = quant_ops.MovingAvgQuantize

    def averaged(*args: Any, **kwargs: Any) -> tf.Tensor:
        return original(*args, **{**kwargs, "ema_decay": decay})

    quant_ops.MovingAvgQuantize = averaged
    try:
        yield
    finally:
        quant_ops.MovingAvgQuantize = original
