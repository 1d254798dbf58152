"""Completed Q/DQ nodes: three constant inputs, scalars where per tensor, 8 bits and more.

Exporters leave the zero point out, store scalars as [1], zero points in another shape than the scale, per-channel
parameters that are all equal, and 2- or 4-bit types. After this pass `params_of(node)` reads any Q/DQ node.

A narrow type becomes the 8-bit type of its sign with the range as an integer Clip:
    QuantizeLinear(int4) -> DequantizeLinear   =>   QuantizeLinear(int8) -> Clip(-8, 7) -> DequantizeLinear
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx.helper
import onnx_graphsurgeon as gs
from numpy.typing import DTypeLike

from drpai_qat.core.errors import ModelError, QuantizationError
from drpai_qat.core.quantization import check_scale
from preprocess.passlog import PassLog
from preprocess.surgery import Array, Names, optional_input, value_of

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

_NARROW: dict[str, tuple[type[np.integer], int, int]] = {
    "int4": (np.int8, -8, 7),
    "uint4": (np.uint8, 0, 15),
    "int2": (np.int8, -2, 1),
    "uint2": (np.uint8, 0, 3),
}
_OUTPUT_TYPES = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 21: ml_dtypes.uint4, 22: ml_dtypes.int4}


def complete_quantize_nodes(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give every QuantizeLinear and DequantizeLinear three constant inputs in their simplest legal shape.

    Raises:
        QuantizationError: a scale that is zero, negative, NaN, infinite or denormal; shapes that don't match.
        ModelError: parameters computed at run time, or an FP8 grid.
    """
    names = Names(graph)
    added: list[gs.Node] = []
    for node in graph.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE):
            _complete(node, names)
            narrow = _widen(node, names)
            if narrow is not None:
                added.append(narrow)
    graph.nodes.extend(added)
    return graph.toposort() if added else graph


def _complete(node: gs.Node, names: Names) -> None:
    if len(node.inputs) < 2 or node.inputs[1].is_empty():
        raise ModelError(
            f"node {node.name}: {node.op} has no scale; the exporter lost it, export with opset 13 or later"
        )
    where = f"node {node.name}, tensor {node.inputs[1].name}"
    scale = value_of(node.inputs[1])
    if scale is None:
        raise ModelError(
            f"{where}: scale is computed at run time, by an observer that was still on or by dynamic quantization: "
            "turn observers off before the export (torch.ao.quantization.disable_observer); for dynamic quantization, "
            "compile with data to take ranges from: --calibration FILE or --images DIR"
        )
    zero_tensor = optional_input(node, 2)
    zero_point = value_of(zero_tensor)
    if zero_tensor is None:
        zero_point = np.zeros(scale.shape, _implied_type(node))
    elif zero_point is None:
        raise ModelError(f"node {node.name}, tensor {zero_tensor.name}: zero point is computed at run time")
    if "float8" in zero_point.dtype.name or "float4" in zero_point.dtype.name:
        raise ModelError(f"{where}: quantized to {zero_point.dtype.name}; export an INT8 quantization")
    check_scale(scale, where)
    blocked = bool(node.attrs.get("block_size", 0))
    node.attrs = _axis(node) | ({"block_size": int(node.attrs["block_size"])} if blocked else {})
    if not blocked:
        scale, zero_point = _simplest(node, scale, zero_point, where)
    if np.ndim(scale) == 0:
        node.attrs.pop("axis", None)
    _set_input(node, 1, np.asarray(scale, np.float32), names)
    _set_input(node, 2, zero_point, names)


def _axis(node: gs.Node) -> dict[str, int]:
    """Axis attribute, counted from the front."""
    axis = int(node.attrs.get("axis", 1))
    if axis < 0:
        shape = node.inputs[0].shape if node.inputs[0].shape is not None else node.outputs[0].shape
        axis += len(shape or ())
    return {"axis": axis}


def _simplest(node: gs.Node, scale: Array, zero_point: Array, where: str) -> tuple[Array, Array]:
    """Scalars if the parameters are one pair, else two vectors of one length."""
    channels = max(scale.size, zero_point.size)
    if scale.size not in (1, channels) or zero_point.size not in (1, channels):
        raise QuantizationError(f"{where}: {scale.size} scales and {zero_point.size} zero points don't match")
    scales = np.broadcast_to(scale.reshape(-1), (channels,))
    points = np.broadcast_to(zero_point.reshape(-1), (channels,))
    one_pair = bool((scales == scales[0]).all() and (points == points[0]).all())
    if one_pair:
        return np.array(scales[0]), np.array(points[0])
    shape, axis = node.inputs[0].shape, node.attrs["axis"]
    if shape is not None and not (axis < len(shape) and shape[axis] in (channels, None)):
        raise QuantizationError(f"{where}: {channels} scales along axis {axis} of a tensor of shape {list(shape)}")
    return np.ascontiguousarray(scales), np.ascontiguousarray(points)


def _implied_type(node: gs.Node) -> DTypeLike:
    """Type of an omitted zero point: that of the output if stated, else that of the input; uint8 by default."""
    if node.op == QUANTIZE:
        return _OUTPUT_TYPES.get(node.attrs.get("output_dtype", 0), np.uint8)
    source = node.inputs[0]
    dtype = source.dtype if isinstance(source, gs.Constant) else None
    while dtype is None and source.inputs:
        maker = source.inputs[0]
        if maker.op == QUANTIZE:
            point = value_of(optional_input(maker, 2))
            return point.dtype if point is not None else _implied_type(maker)
        if maker.op == "Cast":
            return _OUTPUT_TYPES.get(maker.attrs["to"], np.int32)
        source = maker.inputs[0]
    found = dtype if dtype is not None else source.dtype or np.uint8
    # graphsurgeon keeps ONNX's number of types that numpy alone does not know (float8).
    return onnx.helper.tensor_dtype_to_np_dtype(found) if isinstance(found, int) else found


def _widen(node: gs.Node, names: Names) -> gs.Node | None:
    """Replace a 2- or 4-bit type by the 8-bit type of its sign; returns the Clip that keeps the range."""
    point = node.inputs[2].values
    narrow = _NARROW.get(point.dtype.name)
    if narrow is None:
        return None
    dtype, low, high = narrow
    _set_input(node, 2, np.asarray(point, dtype), names)
    source = node.inputs[0]
    if node.op == DEQUANTIZE:
        if isinstance(source, gs.Constant) and source.dtype != dtype:
            node.inputs[0] = gs.Constant(names(f"{source.name}_{np.dtype(dtype).name}"), source.values.astype(dtype))
        return None
    output = node.outputs[0]
    wide = gs.Variable(names(f"{output.name}_wide"), dtype, output.shape)
    node.outputs.clear()
    node.outputs.append(wide)
    output.dtype = np.dtype(dtype)
    bounds = [gs.Constant(names(f"{output.name}_{bound}"), np.array(bound, dtype)) for bound in (low, high)]
    return gs.Node("Clip", names(f"{node.name}_range"), {}, [wide, *bounds], [output])


def _set_input(node: gs.Node, index: int, value: Array, names: Names) -> None:
    """Set a parameter, keeping the source's tensor where it says the same."""
    old = optional_input(node, index)
    if old is not None and isinstance(old, gs.Constant):
        same_form = tuple(old.shape) == value.shape and old.dtype == value.dtype
        if same_form and np.array_equal(old.values, value):
            return
    role = "scale" if index == 1 else "zero_point"
    new = gs.Constant(names(old.name if old is not None else f"{node.name}_{role}"), value)
    if index < len(node.inputs):
        node.inputs[index] = new
    else:
        node.inputs.append(new)
