"""Fake-quant as one node with the ends of its range.

OpenVINO's FakeQuantize is left by NNCF in stripped models where quantizers share a scale (Concat, Resize); TensorFlow's
by tf2onnx where it finds no Q/DQ for it.

    FakeQuantize(x, low, high, low, high, levels)   =>   Q(x, s, z) -> [Clip(0, levels - 1)] -> DQ(s, z)
    s = (high - low) / (levels - 1),   z = -low / s

    FakeQuantWithMinMaxVars(x, low, high; bits, narrow)   likewise, levels = 2^bits - narrow

z is a whole number up to float32 rounding where NNCF tuned the range so that zero is on the grid. Elsewhere it is
rounded, which moves the range by less than half a step, as nncf.strip does when it writes Q/DQ itself.
TensorFlow rounds it too ("nudged" ranges), and halves up where Q/DQ round half to even.
Source: OpenVINO's operation set, FakeQuantize-1; TensorFlow's fake_quant_ops_functor.h.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import QuantizationError
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Array, Names, value_of

FAKE_QUANTIZE = "FakeQuantize"
_RANGE_IN_ATTRIBUTES = {"FakeQuantWithMinMaxArgs", "TFL_FAKE_QUANT"}
_PER_CHANNEL = "FakeQuantWithMinMaxVarsPerChannel"
OF_TENSORFLOW = {"FakeQuantWithMinMaxVars", _PER_CHANNEL, *_RANGE_IN_ATTRIBUTES}
FAKE_QUANT_NODES = frozenset({FAKE_QUANTIZE, *OF_TENSORFLOW})
_ON_GRID = 0.02
"""Tuned ranges have zero within this part of a step of a whole one."""


def translate_fake_quantize(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every such node by QuantizeLinear and DequantizeLinear.

    Raises: QuantizationError: ranges that are computed, empty or different at the output.
    """
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        if node.op in FAKE_QUANT_NODES:
            made += _as_pair(node, names, log)
            log.note(node.name, f"{node.op} became QuantizeLinear and DequantizeLinear")
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def _as_pair(node: gs.Node, names: Names, log: PassLog) -> list[gs.Node]:
    scale, zero_point, levels, axis = _grid(node, log)
    dtype = np.uint8 if levels <= 256 else np.uint16
    constants = [
        gs.Constant(names(f"{node.name}_scale"), scale.astype(np.float32)),
        gs.Constant(names(f"{node.name}_zero_point"), zero_point.astype(dtype)),
    ]
    source, output = node.inputs[0], node.outputs[0]
    integers = gs.Variable(names(f"{output.name}_quantized"), np.dtype(dtype), output.shape)
    attrs = {} if axis is None else {"axis": axis}
    node.inputs.clear()
    node.outputs.clear()
    made = [gs.Node(QUANTIZE, names(f"{node.name}_quantize"), dict(attrs), [source, *constants], [integers])]
    if levels - 1 < np.iinfo(dtype).max:
        bounds = [gs.Constant(names(f"{node.name}_bound"), np.array(bound, dtype)) for bound in (0, levels - 1)]
        limited = gs.Variable(names(f"{output.name}_limited"), np.dtype(dtype), output.shape)
        made.append(gs.Node("Clip", names(f"{node.name}_range"), {}, [integers, *bounds], [limited]))
        integers = limited
    made.append(gs.Node(DEQUANTIZE, names(f"{node.name}_dequantize"), dict(attrs), [integers, *constants], [output]))
    return made


def _grid(node: gs.Node, log: PassLog) -> tuple[Array, Array, int, int | None]:
    """Scale and zero point (scalars, or one per channel), levels, channel axis."""
    low, high, levels = _range(node)
    low, high = np.broadcast_arrays(low, high)
    scale = (high - low) / (levels - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = -low / scale
    zero_point = np.rint(steps)
    if not np.isfinite(steps).all():
        raise QuantizationError(f"node {node.name}: {node.op}'s range is empty")
    shift = float(np.abs(steps - zero_point).max())
    if shift > _ON_GRID and node.op == FAKE_QUANTIZE:
        log.note(node.name, f"zero was not on the grid: range moved by {shift:.2f} steps, as nncf.strip does")
    wide = [axis for axis, size in enumerate(scale.shape) if size != 1]
    if len(wide) > 1:
        raise QuantizationError(f"node {node.name}: {node.op} with ranges along several axes")
    zero_point = np.clip(zero_point, 0, levels - 1)
    if not wide:
        return np.array(scale.reshape(-1)[0]), np.array(zero_point.reshape(-1)[0]), levels, None
    return scale.reshape(-1), zero_point.reshape(-1), levels, -1 if node.op == _PER_CHANNEL else wide[0]


def _range(node: gs.Node) -> tuple[Array, Array, int]:
    """Ends of the range, and the number of levels between them, both included."""
    ranges = [value_of(tensor) for tensor in node.inputs[1:5]]
    if node.op == FAKE_QUANTIZE:
        levels = int(node.attrs.get("levels", 256))
    else:
        levels = 2 ** int(node.attrs.get("num_bits", 8)) - int(node.attrs.get("narrow_range", 0))
        if node.op in _RANGE_IN_ATTRIBUTES:
            ranges = [np.array(node.attrs.get(name, value)) for name, value in (("min", -6.0), ("max", 6.0))]
        ranges *= 2  # the output has the range of the input
    if len(ranges) != 4 or any(value is None for value in ranges) or not 2 <= levels <= 65536:
        raise QuantizationError(f"node {node.name}: {node.op} without constant ranges, or of {levels} levels")
    low, high, out_low, out_high = (np.asarray(value, np.float64) for value in ranges)
    if not (np.array_equal(low, out_low) and np.array_equal(high, out_high)):
        raise QuantizationError(f"node {node.name}: FakeQuantize with an output range of its own is no Q/DQ pair")
    return low, high, levels
