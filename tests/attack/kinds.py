"""What a class of mutations is."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import TensorProto

Structural = Callable[[onnx.ModelProto, random.Random], str]
"""Changes the model, and says what it did; raises IndexError, ValueError or TypeError where nothing fits."""


def registry(kinds: dict[str, Structural]) -> Callable[[Structural], Structural]:
    """A decorator that registers a class of mutations by its function's name."""

    def kind(function: Structural) -> Structural:
        kinds[function.__name__.replace("_", " ")] = function
        return function

    return kind


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """All that holds values in a model's main graph."""
    held = [one.t for node in model.graph.node for one in node.attribute if one.HasField("t")]
    return [*model.graph.initializer, *held]
