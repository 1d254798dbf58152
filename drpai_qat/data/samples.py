"""Sample inputs: those that the user gave, or random ones, image-like and spread over the range that training saw."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.moving import VIEWS
from drpai_qat.core.quantization import FloatArray
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data.given_samples import GivenSamples
from drpai_qat.data.sample_options import RANDOM, SampleOptions

_PASSED = VIEWS | {"Transpose", "Clip"}
"""What may stand between an input and its QuantizeLinear without changing its range."""

_NO_TABLE = 2
"""Integers that point into no table are taken for masks."""
_LARGEST_INPUT = 1e9
"""Trained ranges that reach farther are taken for accidents: every other sample is spread as if there were none."""
_UNTRAINED_SPREAD = 1.0
"""Standard deviation where no range is known: inputs are normalized in training."""


def choose_samples(
    model: onnx.ModelProto,
    given: GivenSamples | None,
    options: SampleOptions,
    frames: Iterable[dict[str, NDArray]] | None = None,
) -> list[dict[str, NDArray]]:
    """The samples that the user asked for.

    Args:
        model: canonical QDQ model.
        given: what `options.samples` holds, read; None: the first of `frames`, or random ones.
        frames: data that was given for something else.
    Returns: arrays by input name.
    Raises: OptionError: what was given does not fit the model, or is fewer than asked for.
    """
    if given is None and frames is not None:
        return list(islice(frames, options.check_samples or RANDOM))
    if given is None:
        return make_samples(model, options.check_samples or RANDOM, options.seed)
    found = given.cut(input_infos(model))
    wanted = options.check_samples or len(found)
    if wanted > len(found):
        raise OptionError(f"--check_samples {wanted}: --samples holds {len(found)}: give more, or ask for fewer")
    return found[:wanted]


def input_infos(model: onnx.ModelProto) -> list[TensorInfo]:
    """Name, shape and type of each input of a canonical model."""
    return [_input_info(value) for value in model.graph.input]


def _input_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorInfo(value.name, tuple(dim.dim_value for dim in tensor.shape.dim), dtype.name)


def make_samples(model: onnx.ModelProto, count: int, seed: int) -> list[dict[str, NDArray]]:
    """Make `count` sets of inputs for a canonical model.

    Args:
        model: canonical QDQ model; its inputs are static, float32, or int32 where they are indices.
        count: number of sets.
        seed: the same seed gives the same samples.
    Returns: arrays by input name.
    """
    return [make_sample(model, index, seed) for index in range(count)]


def make_sample(model: onnx.ModelProto, index: int, seed: int) -> dict[str, NDArray]:
    """Set `index` of those that `make_samples` makes."""
    sample: dict[str, NDArray] = {}
    for value in model.graph.input:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        indices = _entries(value, model)
        generator = np.random.default_rng([seed, index, len(sample)])
        if indices is None:
            trained = trained_range(value.name, model)
            # No sensor reaches such ends, and inputs as they are may all lie within one step of such a grid.
            plausible = trained is None or max(map(abs, trained)) <= _LARGEST_INPUT or index % 2 == 0
            sample[value.name] = _noise(shape, trained if plausible else None, generator)
        else:
            sample[value.name] = generator.integers(0, indices, shape, np.int32)
    return sample


def _entries(value: onnx.ValueInfoProto, model: onnx.ModelProto) -> int | None:
    """Number of entries of the smallest table that an integer input points into; None if the input holds reals."""
    if value.type.tensor_type.elem_type != onnx.TensorProto.INT32:
        return None
    graph = model.graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.value_info, *graph.output):
        shapes[info.name] = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    reached, entries = {value.name}, [_NO_TABLE]
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] in reached and node.input[0] in shapes:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
            entries.append(shapes[node.input[0]][axis])
        elif node.op_type in (*_PASSED, "Cast") and node.input[0] in reached:
            reached.update(node.output)
    return min(entries[1:] or entries)


def _noise(shape: tuple[int, ...], trained: tuple[float, float] | None, generator: np.random.Generator) -> FloatArray:
    """Smooth with some grain, as images are; scaled so that the trained range is used to its ends."""
    smooth = generator.standard_normal(shape)
    axes = _image_axes(shape)
    for axis in axes:
        smooth = _blurred(smooth, axis)
    smooth /= max(float(smooth.std()), 1e-6)
    values = smooth + 0.3 * generator.standard_normal(shape) if axes else generator.standard_normal(shape)
    if trained is None:
        return np.asarray(_UNTRAINED_SPREAD * values / max(float(values.std()), 1e-6), np.float32)
    low, high = trained
    least, most = float(values.min()), float(values.max())
    unit = (values - least) / (most - least) if most > least else np.full(shape, 0.5)
    return np.asarray(low + unit * (high - low), np.float32)


def _image_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of (N, C, H, W), (N, H, W, C) or (N, H, W); none for vectors."""
    if len(shape) == 4:
        return (1, 2) if shape[3] <= 4 < shape[1] else (2, 3)
    return (1, 2) if len(shape) == 3 and min(shape[1:]) >= 8 else ()


def _blurred(values: NDArray, axis: int) -> NDArray:
    """Box filter of a quarter of the axis, by a running sum."""
    width = max(values.shape[axis] // 4, 1)
    padded = np.concatenate([values, np.take(values, range(width), axis=axis, mode="wrap")], axis=axis)
    total = np.cumsum(padded, axis=axis)
    size = values.shape[axis]
    return np.asarray(
        np.take(total, range(width, width + size), axis=axis) - np.take(total, range(size), axis=axis), np.float64
    )


def trained_range(name: str, model: onnx.ModelProto) -> tuple[float, float] | None:
    """Real range of the first QuantizeLinear that an input reaches through views.

    None if there is none; or, in a model that is not canonical, if its grid is no constant.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    reached, clip = {name}, (-np.inf, np.inf)
    for node in model.graph.node:
        if not node.input or node.input[0] not in reached:
            continue
        if node.op_type == "QuantizeLinear":
            if len(node.input) < 3 or any(one not in initializers for one in node.input[1:]):
                return None
            low, high = _real_range(node, initializers)
            return max(low, clip[0]), min(high, clip[1])
        if node.op_type in _PASSED:
            reached.update(node.output)
            if node.op_type == "Clip":
                clip = _bounds(node, initializers)
    return None


def _real_range(node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto]) -> tuple[float, float]:
    scale, zero_point = (onnx.numpy_helper.to_array(initializers[name]) for name in node.input[1:3])
    limits = np.iinfo(zero_point.dtype)
    return (
        float(scale.min()) * (int(limits.min) - int(zero_point.max())),
        float(scale.min()) * (int(limits.max) - int(zero_point.max())),
    )


def _bounds(node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto]) -> tuple[float, float]:
    low, high = -np.inf, np.inf
    if len(node.input) > 1 and node.input[1] in initializers:
        low = float(onnx.numpy_helper.to_array(initializers[node.input[1]]).reshape(-1)[0])
    if len(node.input) > 2 and node.input[2] in initializers:
        high = float(onnx.numpy_helper.to_array(initializers[node.input[2]]).reshape(-1)[0])
    return low, high
