"""QONNX's Quant, which Brevitas and FINN write, as Q/DQ.

    Quant(x, s, z, bits; signed, narrow)   =>   Q(x, s, z) -> [Clip(low, high)] -> DQ(s, z)
    Quant of a constant                    =>   DQ(integers, s, z), of up to 32 bits

    low, high = -2^(bits-1) + narrow, 2^(bits-1) - 1   or unsigned   0, 2^bits - 1 - narrow

Rounding modes that differ from half-to-even in exact halves alone are read as that; others hold for constants, whose
integers are computed here.
Source: QONNX, docs/qonnx-custom-ops/quant_op.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.core.errors import QuantizationError
from preprocess.passlog import PassLog
from preprocess.surgery import value_of
from preprocess.writing import Writer, taken_apart

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas")
QUANT = frozenset({"Quant", "IntQuant"})
_MOST_BITS = 16
_BIAS_BITS = 32

Doubles = NDArray[np.float64]
_ROUNDINGS: dict[str, Callable[[Doubles], Doubles]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
}
_NEAREST = ("ROUND", "HALF_EVEN", "HALF_UP", "HALF_DOWN")


def translate_qonnx(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every Quant.

    Raises: QuantizationError: parameters that are computed, or that no Q/DQ pair can have.
    """
    writer, count = Writer(graph), 0
    graph.toposort()
    for node in list(graph.nodes):
        if node.op in QUANT and node.domain in DOMAINS:
            writer.base = node.name
            _translate(node, writer)
            count += 1
    if count:
        log.note("model", f"{count} Quant nodes of QONNX became Q/DQ nodes")
    return writer.finish()


def _translate(node: gs.Node, writer: Writer) -> None:
    scale, zero_point, bits = (value_of(one) for one in node.inputs[1:4])
    where = f"node {node.name} (Quant)"
    if scale is None or zero_point is None or bits is None or bits.size != 1:
        raise QuantizationError(f"{where}: its parameters are computed at run time; export with trained constants")
    width, constant = float(bits.reshape(-1)[0]), value_of(node.inputs[0])
    most = _MOST_BITS if constant is None else _BIAS_BITS
    if width != int(width) or not 2 <= width <= most:
        raise QuantizationError(f"{where}: {width:g} bits have no integer type; train with 2 to {most} whole bits")
    if (zero_point != np.rint(zero_point)).any():
        raise QuantizationError(f"{where}: its zero point is no whole number; train with an integer one")
    mode = str(node.attrs.get("rounding_mode", "ROUND")).upper()
    if mode not in (_NEAREST if constant is None else _ROUNDINGS):
        raise QuantizationError(f"{where}: activations are rounded by {mode}; train with rounding mode ROUND")
    signed, narrow = bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 0))
    half = 2 ** (int(width) - 1)
    low, high = (-half + narrow, half - 1) if signed else (0, 2 * half - 1 - narrow)
    dtype = np.dtype(f"{'' if signed else 'u'}int{8 if width <= 8 else 16 if width <= 16 else 32}")
    axis, scales, points = _along(scale, zero_point, where)
    if points.min() < np.iinfo(dtype).min or points.max() > np.iinfo(dtype).max:
        raise QuantizationError(f"{where}: zero point {int(points.min())} is outside {dtype.name}")
    inputs, output = taken_apart(node)
    grid: list[gs.Tensor] = [writer.constant(scales), writer.constant(points, dtype)]
    if constant is None:
        data = inputs[0]
        narrowed = (low, high) != (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if narrowed and axis is None and width > 8:  # onnxruntime has no Clip of 16-bit integers
            ends = [np.float64(scales) * (end - float(points)) for end in (low, high)]
            data, narrowed = writer.emit("Clip", [data, *(writer.constant(end) for end in ends)]), False
        integers = writer.quantize(data, grid)
        if axis is not None:
            integers.inputs[0].attrs["axis"] = axis
        if narrowed:
            bounds = [writer.constant(end, dtype) for end in (low, high)]
            integers = writer.emit("Clip", [integers, *bounds], None, dtype)
    else:
        steps = _ROUNDINGS[mode](
            (constant.astype(np.float32) / scale.astype(np.float32)).astype(np.float64) + zero_point
        )
        integers = writer.constant(np.clip(steps, low, high), dtype)
    last = writer.dequantize(integers, grid, axis)
    last.inputs[0].outputs = [output]


def _along(scale: NDArray, zero_point: NDArray, where: str) -> tuple[int | None, NDArray, NDArray]:
    """Channel axis, counted from the end; scales and zero points as scalars or vectors."""
    scale, zero_point = np.broadcast_arrays(scale, zero_point)
    wide = [at - scale.ndim for at, size in enumerate(scale.shape) if size != 1]
    if len(wide) > 1:
        raise QuantizationError(f"{where}: scales along several axes")
    if not wide:
        return None, scale.reshape(-1)[0], zero_point.reshape(-1)[0]
    return wide[0], scale.reshape(-1), zero_point.reshape(-1)
