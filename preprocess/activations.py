"""Trained activation ranges in one form.

    Q -> Clip(low, high) -> [Cast] -> DQ   =>   Clip(reals of low, high) -> Q -> DQ
    Q -> Clip(low, high) -> DQ per channel  =>   Max(reals of low), Min(reals of high), by channel -> Q -> DQ
    Q -> Cast to a wider integer -> DQ     =>   Q -> DQ

A Clip of the reals before rounding selects the same integers as a Clip of the integers after it: rounding is
monotonic, and (q - z) * s in float32, divided by s, rounds to q - z again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import QuantParams
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Names, clip_bounds, is_graph_output, params_of, readers


@dataclass(frozen=True)
class _Path:
    """From a QuantizeLinear to one DequantizeLinear: the range that integer Clips leave, and how many they are."""

    dequantize: gs.Node
    low: int
    high: int
    steps: int


def clip_before_quantize(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Move integer ranges between Q and DQ in front of Q, and drop casts between them."""
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        if node.op != QUANTIZE or not node.outputs or isinstance(node.inputs[0], gs.Constant):
            continue
        params = params_of(node)
        paths = list(_paths(graph, node.outputs[0], params.qmin, params.qmax, 0))
        for low, high in sorted({(path.low, path.high) for path in paths if path.steps}):
            members = [path for path in paths if path.steps and (path.low, path.high) == (low, high)]
            made += _ranged(node, params, low, high, members, names, log)
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def _paths(graph: gs.Graph, tensor: gs.Tensor, low: int, high: int, steps: int) -> Iterator[_Path]:
    """Every DequantizeLinear that `tensor` reaches through Clip and Cast alone."""
    for node in readers(tensor):
        if node.op == DEQUANTIZE and node.inputs[0] is tensor:
            yield _Path(node, low, high, steps)
        elif node.op == "Cast" and not is_graph_output(graph, node.outputs[0]):
            limits = _integer_limits(node.attrs["to"])
            if limits is not None and limits[0] <= low and high <= limits[1]:
                yield from _paths(graph, node.outputs[0], low, high, steps + 1)
        elif node.op in ("Clip", "Min", "Max") and not is_graph_output(graph, node.outputs[0]):
            bounds = clip_bounds(node, tensor)
            if bounds is not None:
                inner = int(max(low, bounds[0])), int(min(high, bounds[1]))
                yield from _paths(graph, node.outputs[0], *inner, steps + 1)


def _integer_limits(elem_type: int) -> tuple[int, int] | None:
    dtype = np.dtype(gs.importers.onnx_importer.get_numpy_type(elem_type))
    if not np.issubdtype(dtype, np.integer):
        return None
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _ranged(
    node: gs.Node, params: QuantParams, low: int, high: int, members: list[_Path], names: Names, log: PassLog
) -> list[gs.Node]:
    """A Q of its own for the DQ nodes of `members`, behind a Clip of the reals if the range is narrow."""
    source, output = node.inputs[0], node.outputs[0]
    made: list[gs.Node] = []
    rank = len(source.shape or ())
    if params.axis is not None and rank and (low > params.qmin or high < params.qmax):
        shape = [params.scale.size if at == params.axis else 1 for at in range(rank)]
        for op, end in (("Max", low), ("Min", high)):
            reals = np.float64(params.scale) * (end - params.zero_point)
            bound = gs.Constant(names(f"{source.name}_{op.lower()}"), reals.astype(np.float32).reshape(shape))
            limited = gs.Variable(names(f"{source.name}_limited"), np.dtype(np.float32), source.shape)
            made.append(gs.Node(op, names(f"{node.name}_{op.lower()}"), {}, [source, bound], [limited]))
            source = limited
        log.folded(node, f"integer range {low}..{high} of each channel is a Max and a Min in front")
    elif params.axis is None and (low > params.qmin or high < params.qmax):
        ranged = QuantParams.of(params.scale, params.zero_point, params.dtype, qmin=low, qmax=high)
        bounds = [
            gs.Constant(names(f"{source.name}_{side}"), real)
            for side, real in zip(("min", "max"), ranged.real_range(), strict=True)
        ]
        clipped = gs.Variable(names(f"{source.name}_clipped"), np.dtype(np.float32), source.shape)
        made.append(gs.Node("Clip", names(f"{node.name}_range"), {}, [source, *bounds], [clipped]))
        source = clipped
        log.folded(node, f"integer range {low}..{high} is a Clip in front")
    elif low > params.qmin or high < params.qmax:
        log.skipped(node, "range of a per-channel activation")
        return []
    integers = gs.Variable(names(f"{output.name}_q"), params.dtype, output.shape)
    made.append(
        gs.Node(QUANTIZE, names(f"{node.name}_ranged"), dict(node.attrs), [source, *node.inputs[1:]], [integers])
    )
    for path in members:
        path.dequantize.inputs[0] = integers
        point = path.dequantize.inputs[2]
        if point.dtype != params.dtype:
            path.dequantize.inputs[2] = gs.Constant(names(point.name), point.values.astype(params.dtype))
    return made
