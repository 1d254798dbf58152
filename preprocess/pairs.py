"""Q/DQ pairs brought to one rule: each QuantizeLinear is read by DequantizeLinear nodes of its own parameters.

    Q(x, s) -> DQ(s'), other parameters   =>   Q(s) -> DQ(s) -> Mul(s'/s) -> Add((z - z') s')
    DQ(s) -> Q(s)                         =>   nothing: a grid rounds to itself
    two equal nodes on one tensor         =>   one node

Exporters write a pair for each reader of a tensor; lowering needs to know that they are the same.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import QuantParams
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import (
    Names,
    clip_bounds,
    detach,
    is_graph_output,
    params_of,
    produced_by,
    replace_input,
    value_of,
)

_SAME_SCALE = 1e-6
"""Relative difference up to which two scales are roundings of the same trained one."""


def match_pairs(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Let each DequantizeLinear use the parameters of the QuantizeLinear that feeds it."""
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        writer = produced_by(node.inputs[0], QUANTIZE) if node.op == DEQUANTIZE else None
        if writer is None:
            continue
        wrote, reads = params_of(writer), params_of(node)
        if wrote == reads or wrote.axis is not None or reads.axis is not None:
            continue
        if wrote.zero_point != reads.zero_point or not np.isclose(wrote.scale, reads.scale, rtol=_SAME_SCALE, atol=0):
            made += _rescaled(node, wrote, reads, names)
            log.skipped(node, "reads another grid than was written: rescaled in float32")
        node.inputs[1], node.inputs[2] = writer.inputs[1], writer.inputs[2]
    graph.nodes.extend(made)
    return graph.toposort() if made else graph


def _rescaled(node: gs.Node, wrote: QuantParams, reads: QuantParams, names: Names) -> list[gs.Node]:
    """Nodes that turn reals of the written grid into those of the grid that is read."""
    output = node.outputs[0]
    ratio = np.float64(reads.scale) / np.float64(wrote.scale)
    offset = np.float64(wrote.zero_point - reads.zero_point) * np.float64(reads.scale)
    steps = [("Mul", ratio)] + ([("Add", offset)] if offset else [])
    tensors = [gs.Variable(names(f"{output.name}_grid"), np.dtype(np.float32), output.shape) for _ in steps] + [output]
    node.outputs = [tensors[0]]
    return [
        gs.Node(
            op,
            names(f"{node.name}_{op.lower()}"),
            {},
            [tensors[at], gs.Constant(names(f"{output.name}_{op.lower()}"), np.array(value, np.float32))],
            [tensors[at + 1]],
        )
        for at, (op, value) in enumerate(steps)
    ]


def merge_equal_nodes(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Merge equal Clip, QuantizeLinear and DequantizeLinear nodes on one tensor."""
    first: dict[tuple[object, ...], gs.Node] = {}
    for node in graph.nodes:
        if node.op not in (QUANTIZE, DEQUANTIZE, "Clip") or not node.outputs:
            continue
        constants = [value_of(tensor) if not tensor.is_empty() else np.zeros(0) for tensor in node.inputs[1:]]
        if any(value is None for value in constants):
            continue
        values = tuple((value.dtype.str, value.shape, value.tobytes()) for value in constants if value is not None)
        key = (node.op, id(node.inputs[0]), values, tuple(sorted(node.attrs.items())))
        twin = first.setdefault(key, node)
        if twin is not node and not is_graph_output(graph, node.outputs[0]):
            if node.op == QUANTIZE:
                log.folded(node, f"same as {twin.name}")
            output = node.outputs[0]
            detach(node)
            replace_input(output, twin.outputs[0])
    return graph.cleanup()


def drop_repeated_grids(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Remove a Q/DQ pair right behind a DequantizeLinear of the same grid and of no wider range."""
    for node in graph.nodes:
        if node.op != QUANTIZE or not node.outputs or is_graph_output(graph, node.outputs[0]):
            continue
        source, bounds = node.inputs[0], None
        clip = produced_by(source, "Clip")
        if clip is not None:
            source, bounds = clip.inputs[0], clip_bounds(clip, clip.inputs[0])
        before = produced_by(source, DEQUANTIZE)
        if before is None or params_of(before) != params_of(node):
            continue
        if clip is not None and not _within(_range_of(before), bounds):
            continue
        output = node.outputs[0]
        log.folded(node, f"repeats the grid of {before.name}")
        detach(node)
        replace_input(output, before.inputs[0])
    return graph.cleanup()


def _range_of(dequantize: gs.Node) -> tuple[float, float] | None:
    """Range that the Clip in front of the pair of `dequantize` leaves."""
    quantize = produced_by(dequantize.inputs[0], QUANTIZE)
    clip = produced_by(quantize.inputs[0], "Clip") if quantize is not None else None
    return clip_bounds(clip, clip.inputs[0]) if clip is not None else None


def _within(inner: tuple[float, float] | None, outer: tuple[float, float] | None) -> bool:
    return inner is not None and outer is not None and outer[0] <= inner[0] and inner[1] <= outer[1]
