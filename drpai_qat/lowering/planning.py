"""The decisions that more than one node depends on, made once, before any kernel is written.

A producer that writes its output with the padding of the convolution behind it, or widened to int16, has to know what
that convolution multiplies. So convolutions are planned here and lowered as planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import Graph, Node, Weight
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.ranges import find_bounds, find_grids, selects
from drpai_qat.graph.wide_grids import int16_grids
from drpai_qat.kernels.isa import Isa
from drpai_qat.lowering.arithmetic import LayerPlan, convolution_weights, plan_layer, runs_depthwise
from drpai_qat.lowering.borders import wanted_forms
from drpai_qat.lowering.network_plan import ConvKernel, ConvPlan, NetworkPlan, Read
from drpai_qat.lowering.parts import Part, Parts, find_parts
from drpai_qat.lowering.storage import Form
from drpai_qat.lowering.window import convolution_shape, window_of


def plan_network(graph: Graph, isa: Isa) -> NetworkPlan:
    """Decide what is stored on which grid and in which form, what is never computed, and how convolutions multiply."""
    grids = find_grids(graph, isa.activation)
    bounds = find_bounds(graph, grids)
    parts = find_parts(graph, grids, bounds)
    wide_grids = int16_grids(graph, grids, bounds, parts)
    stored = {**wide_grids, **grids}
    convolutions, parts = _Planner(graph, isa, stored).plan(parts)
    return NetworkPlan(grids, wide_grids, parts, convolutions, wanted_forms(graph, stored, convolutions))


class _Planner:
    """Plans the convolutions of a graph whose tensors are stored on `grids`."""

    def __init__(self, graph: Graph, isa: Isa, grids: Mapping[str, Grid]) -> None:
        self._graph, self._isa, self._grids = graph, isa, grids
        self._producers = {name: node for node in graph.nodes for name in node.outputs}
        self._parts: Parts = {}

    def plan(self, parts: Parts) -> tuple[dict[str, ConvPlan], Parts]:
        """The plans by output, and the parts that all readers take.

        A tensor is computed after all where a reader has no integer arithmetic for one of its parts.
        """
        self._parts = dict(parts)
        nodes = [node for node in self._graph.nodes if node.op == "Conv"]
        plans: dict[str, ConvPlan | None] = {}
        waiting = nodes
        while waiting:
            plans.update((node.output, self._plan(node)) for node in waiting)
            refused = {node.inputs[0] for node in waiting if plans[node.output] is None} & self._parts.keys()
            computed = {name for one in sorted(refused) for name in self._compute(one)}
            waiting = [node for node in nodes if node.inputs[0] in computed]
        return {output: plan for output, plan in plans.items() if plan is not None}, self._parts

    def _compute(self, name: str) -> set[str]:
        """Have a tensor computed, and the operands that this takes; returns their names."""
        if self._parts.pop(name, None) is None:
            return set()
        node = self._producers[name]
        operands = node.inputs if node.op == "Concat" else ()  # elementwise operators add the parts themselves
        return {name}.union(*(self._compute(other) for other in operands))

    def _plan(self, node: Node) -> ConvPlan | None:
        """None for a Conv without a kernel of ours, or one that can't read its input by parts."""
        name = node.inputs[0]
        weight, in_shape = self._graph.weight(node.inputs[1]), self._graph.shapes[name]
        biases = [self._graph.weight(bias) for bias in node.inputs[2:] if bias]
        if weight is None or None in biases or len(in_shape) not in (3, 4):
            return None
        parts = self._parts.get(name, (Part(name, 0, in_shape[1]),))
        if not all(self._is_multiplied(part.name) for part in parts):
            return None
        plan = self._convolution(node, weight, parts)
        return None if name in self._parts and any(read.layer.grid is None for read in plan.reads) else plan

    def _convolution(self, node: Node, weight: Weight, parts: tuple[Part, ...]) -> ConvPlan:
        """The plan of a convolution that reads these stored tensors."""
        in_shape, out_shape = self._graph.shapes[node.inputs[0]], self._graph.shapes[node.output]
        window = window_of(node, weight.shape[2:])
        shape, weights = convolution_shape(node, window, in_shape, out_shape), convolution_weights(weight)
        alone, groups = len(parts) == 1, shape.groups
        shares = [weights.of_channels(part.start, part.channels) for part in parts]
        by_rows = alone and shape.suits_rows
        if by_rows:
            shape, shares = shape.rows_as_pixels(), [share.rearranged(_by_rows) for share in shares]
        layers = [
            plan_layer(self._grid(part.name), share, self._isa, shape if alone else None, groups)
            for part, share in zip(parts, shares, strict=True)
        ]
        kernel = _kernel_of(layers, groups, in_shape[1], shape.out_channels)
        if kernel == "depthwise":
            groups = 1
        filled = not by_rows and kernel != "depthwise"
        reads = []
        for part, layer in zip(parts, layers, strict=True):
            plain = Form(window.pads, part.channels, layer.operand, extra_rows=int(by_rows))
            form = layer.form(part.channels, window.pads, groups) if filled else plain
            reads.append(Read(part.name, layer, form))
        if not by_rows:
            shape = replace(shape, channels=reads[0].form.channels // groups, groups=groups)
        return ConvPlan(kernel, tuple(reads), shape)

    def _grid(self, name: str) -> Grid | None:
        """On which a tensor is stored: what only moves or selects elements leaves them as they are."""
        node = self._producers.get(name)
        while node is not None and selects(node):
            name = node.inputs[0]
            node = self._producers.get(name)
        return self._grids.get(name)

    def _is_multiplied(self, name: str) -> bool:
        """The products take its type."""
        grid = self._grid(name)
        return (self._graph.dtypes.get(name, "float32") if grid is None else grid.dtype) in (
            "uint8", "int8", "int16", "float32",
        )  # fmt: skip


def _kernel_of(layers: Sequence[LayerPlan], groups: int, channels: int, out_channels: int) -> ConvKernel:
    """The depthwise kernel and Winograd's take one input."""
    if len(layers) > 1:
        return "direct"
    if runs_depthwise(layers[0].product, groups, channels, out_channels):
        return "depthwise"
    return "winograd" if layers[0].winograd else "direct"


def _by_rows(weights: npt.NDArray[Any]) -> npt.NDArray[np.generic]:
    """Weights (out_channels, rows, columns, channels) for `ConvShape.rows_as_pixels`."""
    return weights.reshape(*weights.shape[:2], 1, -1)
