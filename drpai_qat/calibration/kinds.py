"""Where the range of each tensor of a canonical model comes from."""

from __future__ import annotations

from collections.abc import Container

import onnx

from drpai_qat.graph.canonical import FAKE_QUANT, read_graph
from drpai_qat.graph.ranges import find_bounds, find_grids
from drpai_qat.graph.recurrent import expand_recurrent


def kinds_of_tensors(model: onnx.ModelProto, calibrated: Container[str]) -> dict[str, list[str]]:
    """Names of tensors by the origin of their range.

    Args:
        model: canonical QDQ.
        calibrated: tensors whose grid comes from data.
    Returns:
        calibrated: rounded to a grid that data gave; trained: to one that training gave; inherited: elements of such
        tensors, on their grid; derived: bounded by what computes them.
    """
    graph = read_graph(expand_recurrent(model))
    grids = find_grids(graph, "uint8")
    bounds = find_bounds(graph, grids)
    clipped = {node.output: node.inputs[0] for node in graph.nodes if node.op == "Clip"}
    rounded = {node.output: node.inputs[0] for node in graph.nodes if node.op == FAKE_QUANT}
    rounded.update((name, clipped[one]) for name, one in rounded.items() if clipped.get(one, "") in calibrated)
    sources = dict.fromkeys(rounded.values())
    return {
        "calibrated": [name for name in sources if name in calibrated],
        "trained": [name for name in sources if name not in calibrated],
        "inherited": [name for name in grids if name not in rounded],
        "derived": [name for name in bounds if name not in grids and name not in sources],
    }
