"""What the TFLite tests share: canonical models, from text or real exports, written and run by both sets of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx.shape_inference
import pytest
from numpy.typing import NDArray

import preprocess
from drpai_qat.backends.tflite.running import WrittenNetwork
from drpai_qat.backends.tflite.writer import LiteModel, write_tflite
from drpai_qat.core.errors import LoweringError
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.source.loading import load
from drpai_qat.source.static_shapes import specialize

pytest.importorskip("ai_edge_litert", reason="the extra tflite is not installed")


MODELS = Path(__file__).parents[2] / "models"
BOTH = pytest.mark.parametrize("plain", [False, True], ids=["xnnpack", "plain"])


def model(signature: str, body: str, **constants: NDArray[Any] | float) -> onnx.ModelProto:
    """A model from the text of its nodes.

    Args:
        signature: inputs and outputs: "(float[1,4] x) => (float[1,4] y)".
        body: one node a line.
        constants: initializers by name; floats become float32 scalars.
    """
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> net {signature} {{ {body} }}')
    for name, value in constants.items():
        array = np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(parsed.graph.node):
        node.name = f"{node.op_type}_{index}"
    return onnx.shape_inference.infer_shapes(parsed, strict_mode=True, data_prop=True)


def grid(prefix: str, scale: float, zero_point: int, dtype: str = "uint8") -> dict[str, NDArray[Any]]:
    """Constants of a grid: scale and zero point."""
    return {f"s{prefix}": np.asarray(scale, np.float32), f"z{prefix}": np.asarray(zero_point, dtype)}


def qdq(source: str, result: str, prefix: str) -> str:
    """Text of a QuantizeLinear and its DequantizeLinear."""
    return (
        f"{result}_q = QuantizeLinear ({source}, s{prefix}, z{prefix}) "
        f"{result} = DequantizeLinear ({result}_q, s{prefix}, z{prefix})"
    )


def weights(name: str, *shape: int, axis: int = 0, seed: int = 0, largest: int = 127) -> dict[str, NDArray[Any]]:
    """Constants of int8 weights with a scale per channel: `dequantized` is their text."""
    rng = np.random.default_rng(seed)
    return {
        f"{name}_i": rng.integers(-largest, largest + 1, shape).astype(np.int8),
        f"s{name}": (rng.uniform(0.5, 1.5, shape[axis]) * 0.02 * 127 / largest).astype(np.float32),
        f"z{name}": np.zeros(shape[axis], np.int8),
    }


def dequantized(name: str, axis: int = 0) -> str:
    """Text of the DequantizeLinear of `weights`."""
    return f"{name} = DequantizeLinear <axis={axis}> ({name}_i, s{name}, z{name})"


def written(source: onnx.ModelProto, **options: Any) -> LiteModel:
    """The int8 file of a model."""
    return write_tflite(source, **options)


def steps_apart(
    source: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], plain: bool, **options: Any
) -> NDArray[np.int64]:
    """How many steps of its grid each output of the file is from onnxruntime's on the same model."""
    made = written(source, **options)
    network = WrittenNetwork(made, plain=plain)
    snapped = {
        info.name: feeds[info.name] if info.quantization is None
        else info.quantization.dequantize(info.quantization.quantize(feeds[info.name]))
        for info in made.inputs
    }  # fmt: skip
    wanted, found = Reference(source, "test").run(snapped), network.run(snapped)
    parts = []
    for info in made.outputs:
        assert info.quantization is not None
        apart = (found[info.name].astype(np.float64) - wanted[info.name]) / float(info.quantization.scale)
        parts.append(np.rint(np.abs(apart)).astype(np.int64).reshape(-1))
    return np.concatenate(parts)


def normal(*shape: int, seed: int = 1, spread: float = 1.0) -> NDArray[np.float32]:
    """Random reals."""
    return (np.random.default_rng(seed).normal(0, spread, shape)).astype(np.float32)


@cache
def canonical(name: str) -> onnx.ModelProto:
    """The canonical model of a real export."""
    source = load(MODELS / f"{name}.onnx")
    return preprocess.preprocess(specialize(source.path.name, source.model, ()), None).model


def feeds_of(name: str, count: int) -> list[dict[str, NDArray[np.float32]]]:
    """The export's own samples."""
    given = canonical(name).graph.input[0]
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    x = np.load(MODELS / f"{name}.npz")["x"]
    pieces = [x[at : at + shape[0]] for at in range(0, len(x) - shape[0] + 1, shape[0])]
    return [{given.name: np.ascontiguousarray(piece).reshape(shape)} for piece in pieces[:count]]


def written_or_island(source: onnx.ModelProto, **options: Any) -> tuple[LiteModel, str]:
    """The file, with float32 islands where it must; and why it must."""
    try:
        return written(source, **options), ""
    except LoweringError as error:
        return written(source, allow_float=True, **options), str(error)
