"""What a user may hand to `drpai_qat.export.tensorflow`, as one function of tensors with fixed shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from drpai_qat.core.errors import ModelError

_BEFORE = "give the trained Keras model, its .h5 or its SavedModel folder"
_OTHER_FILES = {
    ".tflite": f"a converted TFLite file, whose training is gone: {_BEFORE}",
    ".pb": f"a frozen graph, or the inside of a SavedModel: {_BEFORE}",
    ".onnx": "ONNX already: compile it with compile_onnx_model_quant.py -a -m tensorflow",
}
"""Files that are given by mistake, by suffix."""


@dataclass(frozen=True)
class Network:
    """A model in evaluation mode.

    Attributes:
        call: takes the inputs, one tensor each; returns the outputs as a list.
        inputs: TensorSpec of each input, its name included; dimensions may still be open.
        output_names: as the model names them; None where it does not.
    """

    call: Callable[..., list[tf.Tensor]]
    inputs: list[tf.TensorSpec]
    output_names: list[str] | None

    def at(self, example: Sequence[Any] | None) -> Network:
        """The same with fixed shapes: those of `example`, or a batch of one.

        Raises: ModelError: the example does not fit, or dimensions besides the batch stay open.
        """
        shapes = _shapes_like(self.inputs, example) if example is not None else _shapes_of_one(self.inputs)
        inputs = [tf.TensorSpec(shape, one.dtype, one.name) for shape, one in zip(shapes, self.inputs, strict=True)]
        return Network(self.call, inputs, self.output_names)


def network_of(model: Any, example: Any) -> Network:
    """Find out what `model` is.

    Args:
        model: tf_keras model, an object of `tf.saved_model.load`, or the path of a .h5 or SavedModel.
        example: an array or a structure of arrays as the model takes it, or None; needed for a subclassed model that
            was never called.
    Raises: ModelError: another kind of object, a Keras 3 model, or a file that can't be read.
    """
    if isinstance(model, str | Path):
        model = _load(Path(model))
    bases = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(model).__mro__}
    if "tf_keras.Model" in bases:
        return _keras_network(model, example)
    if "keras.Model" in bases:
        raise ModelError(
            "this is a Keras 3 model, which tfmot can't train: set TF_USE_LEGACY_KERAS=1 in front of `import "
            "tensorflow`, or build it with tf_keras"
        )
    if hasattr(model, "signatures"):
        return _signature_network(model)
    raise ModelError(f"{type(model).__module__}.{type(model).__name__} is neither a tf_keras model nor a SavedModel")


def _load(path: Path) -> Any:
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ModelError(f"{path} is no SavedModel: saved_model.pb is missing")
        return tf.saved_model.load(str(path))
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix.lower() in _OTHER_FILES:
        raise ModelError(f"{path} is {_OTHER_FILES[path.suffix.lower()]}")
    import tf_keras
    from tensorflow_model_optimization.quantization.keras import quantize_scope

    try:
        with quantize_scope():
            return tf_keras.models.load_model(str(path), compile=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ModelError(f"{path} can't be loaded: {reason} (load it yourself and hand over the model)") from error


def _keras_network(model: Any, example: Any) -> Network:
    structure, inputs = _keras_inputs(model, example)
    takes_training = "training" in inspect.signature(model.call).parameters

    def call(*tensors: tf.Tensor) -> list[tf.Tensor]:
        arguments = {"training": False} if takes_training else {}
        return tf.nest.flatten(model(tf.nest.pack_sequence_as(structure, tensors), **arguments))

    names = getattr(model, "output_names", None)
    return Network(call, inputs, list(names) if names else None)


def _keras_inputs(model: Any, example: Any) -> tuple[Any, list[tf.TensorSpec]]:
    """The structure that the model takes, and a TensorSpec for each of its leaves."""
    if model.inputs:  # functional, or a sequential model that knows its input
        names = getattr(model, "input_names", None) or [one.name.partition(":")[0] for one in model.inputs]
        specs = zip(model.inputs, names, strict=True)
        return model.input, [tf.TensorSpec(one.shape, one.dtype, name) for one, name in specs]
    saved = model.save_spec()
    structure = saved[0][0] if saved is not None else example
    if structure is None:
        raise ModelError("the model was never called, its input is unknown: give example_inputs")
    leaves = tf.nest.flatten(structure)
    names = ["input"] if len(leaves) == 1 else [f"input_{index}" for index in range(len(leaves))]
    if saved is None:
        leaves = [tf.convert_to_tensor(one) for one in leaves]
    return structure, [tf.TensorSpec(one.shape, one.dtype, name) for one, name in zip(leaves, names, strict=True)]


def _signature_network(model: Any) -> Network:
    signatures = model.signatures
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
    if name is None:
        raise ModelError("the SavedModel has no signature: save it with model.save(DIR) or model.export(DIR)")
    signature = signatures[name]
    specs: dict[str, tf.TensorSpec] = signature.structured_input_signature[1]
    outputs = sorted(signature.structured_outputs)

    def call(*tensors: tf.Tensor) -> list[tf.Tensor]:
        results = model.signatures[name](**dict(zip(specs, tensors, strict=True)))  # `model` keeps the variables alive
        return [results[output] for output in outputs]

    return Network(call, [tf.TensorSpec(one.shape, one.dtype, key) for key, one in specs.items()], outputs)


def _shapes_like(inputs: Sequence[tf.TensorSpec], example: Sequence[Any]) -> list[tuple[int, ...]]:
    if len(example) != len(inputs):
        raise ModelError(f"the model has {len(inputs)} inputs, example_inputs {len(example)}")
    shapes = [tuple(one.shape) for one in example]
    for one, shape in zip(inputs, shapes, strict=True):
        if not one.shape.is_compatible_with(shape):
            raise ModelError(f"input {one.name!r} has the shape {one.shape}, its example {shape}")
    return shapes


def _shapes_of_one(inputs: Sequence[tf.TensorSpec]) -> list[tuple[int, ...]]:
    shapes = []
    for one in inputs:
        if one.shape.rank is None or None in one.shape.as_list()[1:]:
            raise ModelError(
                f"input {one.name!r} has open dimensions {one.shape}: give example_inputs of the size to deploy"
            )
        shapes.append(tuple(size or 1 for size in one.shape))
    return shapes
