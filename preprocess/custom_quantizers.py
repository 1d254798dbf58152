"""Quantizers that toolkits export as one node of their own, as Q/DQ.

MQBench (and MMRazor, MMDeploy, Sophgo's fork), with qmin, qmax and the channel axis as inputs or attributes:

    FixedPerTensorAffine(x, s, z), FixedPerChannelAffine, Learnable ...  =>  Q(x, s, z) -> [Clip] -> DQ(s, z)

The Model Compression Toolkit (mct_quantizers), from b bits and a threshold t or a range of reals:

    Activation/WeightsSymmetricQuantizer, ...POTQuantizer   s = t / 2^(b - signed), z = 0, clamp to the type's b bits
    Activation/WeightsUniformQuantizer                      s = (high - low) / (2^b - 1), z = -low / s, rounded
    WeightsLUT...Quantizer                                  the nearest entry of a table of integers, s = t / 2^(w - 1)

Halves are rounded to even after the zero point is added there, before it here: exact halves alone can tell.
Source: MQBench's custom_symbolic_opset.py and fake_quantize/; mct_quantizers/pytorch/quantizers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.core.errors import QuantizationError
from preprocess.passlog import PassLog
from preprocess.surgery import value_of
from preprocess.writing import Writer, taken_apart

MCT = "mct_quantizers"
MQBENCH = "mqbench"
"""Domain that MQBench's nodes get, which it writes into ONNX's own."""

_AFFINE = frozenset({
    "LearnablePerTensorAffine", "FixedPerTensorAffine", "FixedPerChannelAffine", "LearnablePerChannelAffine",
    "FakeQuantizeLearnablePerchannelAffine", "FakeQuantizeLearnablePerChannelAffine",
    "FakeQuantizeLearnablePertensorAffine", "FakeQuantizeLearnablePerTensorAffine", "FakeQuantizeTqtAffine",
    "FakeQuantizeDSQPerchannel", "FakeQuantizeDSQPertensor",
})  # fmt: skip
_BY_THRESHOLD = frozenset(f"{of}{how}Quantizer" for of in ("Activation", "Weights") for how in ("Symmetric", "POT"))
_BY_RANGE = frozenset(("ActivationUniformQuantizer", "WeightsUniformQuantizer"))
_BY_TABLE = frozenset(("WeightsLUTSymmetricQuantizer", "WeightsLUTPOTQuantizer"))
_NEEDED = {
    (True, False): ("num_bits",), (True, True): ("num_bits",),
    (False, False): ("num_bits", "threshold", "signed"), (False, True): ("num_bits", "min_range", "max_range"),
}  # fmt: skip
"""Attributes of quantizers of the Model Compression Toolkit: of weights, and by a range of reals."""
CUSTOM = {
    **dict.fromkeys((MQBENCH, "mmrazor", "mmdeploy", "Sophgo_custom"), _AFFINE),
    MCT: _BY_THRESHOLD | _BY_RANGE | _BY_TABLE,
}
"""Operators by domain."""

CUSTOM_QUANTIZERS: frozenset[str] = frozenset().union(*CUSTOM.values())
"""All of them."""

Doubles = NDArray[np.float64]


def claim_custom_quantizers(model: onnx.ModelProto) -> None:
    """Give nodes of MQBench, which are in no operator set, a domain of their own. Changes `model`."""
    count = 0
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and node.op_type in _AFFINE:
            node.domain, count = MQBENCH, count + 1
    if count:
        model.opset_import.append(onnx.helper.make_opsetid(MQBENCH, 1))


def is_custom_quantizer(node: onnx.NodeProto) -> bool:
    """True for a node that this module translates."""
    return node.op_type in (_AFFINE if node.domain in ("", "ai.onnx") else CUSTOM.get(node.domain, ()))


def translate_custom_quantizers(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every such node.

    Raises: QuantizationError: parameters that are computed, or that no Q/DQ pair can have.
    """
    writer, counts = Writer(graph), dict[str, int]()
    graph.toposort()
    for node in list(graph.nodes):
        if node.op not in CUSTOM.get(node.domain or "", ()):
            continue
        writer.base = node.name
        counts[node.op] = counts.get(node.op, 0) + 1
        if node.op in _BY_TABLE:
            _from_table(node, writer)
        else:
            _as_pair(node, writer, *_grid(node))
    for op, count in counts.items():
        log.note(op, f"{count} nodes became QuantizeLinear and DequantizeLinear")
    return writer.finish()


def _grid(node: gs.Node) -> tuple[Doubles, Doubles, int, int, int | None]:
    """Scale, zero point, qmin, qmax, channel axis."""
    if node.op in _AFFINE:
        return _affine(node)
    missing = [name for name in _NEEDED[node.op.startswith("Weights"), node.op in _BY_RANGE] if name not in node.attrs]
    if missing:
        raise QuantizationError(f"node {node.name} ({node.op}): its attribute {missing[0]} is missing")
    bits = int(node.attrs["num_bits"])
    weights = node.op.startswith("Weights")
    axis = int(node.attrs["channel_axis"]) if weights and node.attrs.get("per_channel", 0) else None
    if node.op in _BY_THRESHOLD:
        threshold = _constant(node, 1) if weights else np.asarray(node.attrs["threshold"], np.float64)
        signed = 1 if weights else int(node.attrs["signed"])
        low = -(2 ** (bits - 1)) if signed else 0
        return threshold / 2.0 ** (bits - signed), np.zeros(threshold.shape), low, low + 2**bits - 1, axis
    ends = [_constant(node, at) for at in (1, 2)] if weights else [
        np.asarray(node.attrs[name], np.float64) for name in ("min_range", "max_range")
    ]  # fmt: skip
    low_end, high_end = np.minimum(ends[0], 0.0), np.maximum(ends[1], 0.0)
    scale = (high_end - low_end) / (2**bits - 1)
    return scale, np.rint(-low_end / np.where(scale > 0, scale, 1)), 0, 2**bits - 1, axis


def _affine(node: gs.Node) -> tuple[Doubles, Doubles, int, int, int | None]:
    scale, point = _constant(node, 1), np.rint(_constant(node, 2))
    given = [_whole(node, at) for at in range(3, len(node.inputs))]
    ends = given[-2:] if len(given) > 1 else [node.attrs.get(name) for name in ("quant_min", "quant_max")]
    if any(one is None for one in ends):
        raise QuantizationError(f"node {node.name} ({node.op}): its smallest and largest integer are not given")
    if scale.size == 1:
        return scale.reshape(()), point.reshape(-1)[0], int(ends[0]), int(ends[1]), None
    of_transposed = any(one.op == "ConvTranspose" for one in node.outputs[0].outputs)
    axis = given[0] if len(given) > 2 else node.attrs.get("ch_axis", int(of_transposed))
    return scale, point, int(ends[0]), int(ends[1]), int(axis)


def _constant(node: gs.Node, index: int) -> Doubles:
    value = value_of(node.inputs[index]) if index < len(node.inputs) else None
    if value is None:
        raise QuantizationError(
            f"node {node.name} ({node.op}): its parameters are computed at run time; export with trained constants"
        )
    return np.asarray(value, np.float64)


def _whole(node: gs.Node, index: int) -> int:
    return int(_constant(node, index).reshape(-1)[0])


def _as_pair(
    node: gs.Node, writer: Writer, scale: Doubles, point: Doubles, qmin: int, qmax: int, axis: int | None
) -> None:
    dtype = _type(node, qmin, qmax)
    if axis is None:
        scale, point = (np.asarray(one, np.float64).reshape(-1)[0] for one in (scale, point))
    else:
        scale, point = scale.reshape(-1), np.broadcast_to(point.reshape(-1), scale.shape)
    inputs, output = taken_apart(node)
    grid: list[gs.Tensor] = [writer.constant(scale), writer.constant(point, dtype)]
    limits, data = np.iinfo(dtype), inputs[0]
    narrowed = (qmin, qmax) != (limits.min, limits.max)
    if narrowed and axis is None and limits.bits > 8:  # onnxruntime has no Clip of 16-bit integers
        data = writer.emit("Clip", [data, *(writer.constant(scale * (end - point)) for end in (qmin, qmax))])
        narrowed = False
    integers = writer.quantize(data, grid)
    if axis is not None:
        integers.inputs[0].attrs["axis"] = axis
    if narrowed:
        integers = writer.emit("Clip", [integers, *(writer.constant(end, dtype) for end in (qmin, qmax))], None, dtype)
    last = writer.dequantize(integers, grid, axis)
    last.inputs[0].outputs = [output]


def _type(node: gs.Node, qmin: int, qmax: int) -> np.dtype[Any]:
    """The narrowest type that holds the range."""
    for name in ("uint8", "int8", "uint16", "int16"):
        if np.iinfo(name).min <= qmin < qmax <= np.iinfo(name).max:
            return np.dtype(name)
    raise QuantizationError(f"node {node.name} ({node.op}): {qmin}..{qmax} is no range of up to 16 bits")


def _from_table(node: gs.Node, writer: Writer) -> None:
    """Weights at the entries of a table: constant integers."""
    values = value_of(node.inputs[0])
    if values is None:
        raise QuantizationError(f"node {node.name} ({node.op}): a table of an activation's values is no grid")
    table, threshold = _constant(node, 1).reshape(-1), _constant(node, 2)
    if (table != np.rint(table)).any():
        raise QuantizationError(f"node {node.name} ({node.op}): its table holds numbers that are not whole")
    half = 2.0 ** (int(node.attrs.get("lut_values_bitwidth", 8)) - 1)
    axis = int(node.attrs["channel_axis"]) if node.attrs.get("per_channel", 0) else None
    along = [1] * values.ndim
    if axis is not None:
        along[axis] = -1
    spread = threshold.reshape(along) if axis is not None else threshold.reshape(-1)[0]
    steps = np.clip(values / (spread + float(node.attrs.get("eps", 1e-8))) * half, -half, half - 1)
    nearest = table[np.abs(steps[..., None] - table).argmin(-1)]
    scale = (threshold.reshape(-1) if axis is not None else threshold.reshape(-1)[0]) / half
    dtype = _type(node, min(int(table.min()), -1), int(table.max()))
    _, output = taken_apart(node)
    grid: list[gs.Tensor] = [writer.constant(scale), writer.constant(np.zeros(np.shape(scale)), dtype)]
    last = writer.dequantize(writer.constant(nearest, dtype), grid, axis)
    last.inputs[0].outputs = [output]
