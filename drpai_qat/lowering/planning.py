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

from drpai_qat.graph.canonical import Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.layer_weights import LayerWeights, convolution_weights, matrix_weights
from drpai_qat.graph.network import find_storage
from drpai_qat.graph.parts import Part, Parting, takes_parts
from drpai_qat.graph.ranges import selects
from drpai_qat.graph.window import Window, window_of
from drpai_qat.kernels.isa import Isa
from drpai_qat.lowering.arithmetic import LayerPlan, plan_layer, plan_sum, runs_depthwise
from drpai_qat.lowering.borders import wanted_forms
from drpai_qat.lowering.network_plan import ConvKernel, ConvPlan, NetworkPlan, Read
from drpai_qat.lowering.storage import Form
from drpai_qat.lowering.window import convolution_shape


def plan_network(graph: Graph, isa: Isa, exact_sums: bool = True) -> NetworkPlan:
    """Decide what is stored on which grid and in which form, what is never computed, and how convolutions multiply."""
    found = find_storage(graph, isa.activation, exact_sums)
    grids, wide_grids, parting, stored = found.grids, found.wide_grids, found.parting, found.stored
    parts = parting.parts
    outrun: set[str] = set()
    convolutions = _Planner(graph, isa, stored, parting, exact_sums, outrun).plan()
    matrices = _matrices(graph, isa, grids, parting, outrun)
    read = {read.name for plan in convolutions.values() for read in plan.reads}
    read.update(part.name for node in graph.nodes if node.output in matrices for part in parts[node.inputs[0]])
    parting.drop_unread(read)
    forms = wanted_forms(graph, stored, convolutions)
    return NetworkPlan(
        grids, wide_grids, parts, parting.stored, convolutions, matrices, forms, exact_sums, frozenset(outrun)
    )


def _matrices(
    graph: Graph, isa: Isa, grids: Mapping[str, Grid], parting: Parting, outrun: set[str]
) -> dict[str, tuple[LayerPlan, ...]]:
    """The arithmetic of matrix products that read their input by parts."""
    found = {}
    for node in graph.nodes:
        name = node.inputs[0] if node.inputs else ""
        parts = parting.parts.get(name, ())
        if not parts or not takes_parts(graph, node, name, parts) or node.op == "Conv":
            continue
        weights = matrix_weights(graph, node)
        assert weights is not None
        layers = [plan_layer(grids[part.name], weights, isa) for part in parts]
        planned = plan_sum(layers, isa, computed=name in parting.stored)
        if planned is not None:
            found[node.output] = tuple(planned)
        elif all(layer.grid is not None for layer in layers):
            outrun.add(node.output)
    return found


class _Planner:
    """Plans the convolutions of a graph whose tensors are stored on `grids`."""

    def __init__(
        self, graph: Graph, isa: Isa, grids: Mapping[str, Grid], parting: Parting, exact: bool, outrun: set[str]
    ) -> None:
        self._graph, self._isa, self._grids, self._exact, self._outrun = graph, isa, grids, exact, outrun
        self._parts, self._computed = parting.parts, parting.stored
        self._producers = {name: node for node in graph.nodes for name in node.outputs}

    def plan(self) -> dict[str, ConvPlan]:
        """The plans by output."""
        plans = {node.output: self._plan(node) for node in self._graph.nodes if node.op == "Conv"}
        return {output: plan for output, plan in plans.items() if plan is not None}

    def _plan(self, node: Node) -> ConvPlan | None:
        """None for a Conv without a kernel of ours."""
        name = node.inputs[0]
        weight, in_shape = self._graph.weight(node.inputs[1]), self._graph.shapes[name]
        biases = [self._graph.weight(bias) for bias in node.inputs[2:] if bias]
        if weight is None or None in biases or len(in_shape) not in (3, 4):
            return None
        window, weights = window_of(node, weight.shape[2:]), convolution_weights(weight)
        by_parts = self._convolution(node, window, weights, self._parts[name]) if name in self._parts else None
        if by_parts is not None:
            return by_parts
        whole = Part(name, 0, in_shape[1])  # in float32, where it could be read by parts
        return self._convolution(node, window, weights, (whole,)) if self._is_multiplied(name) else None

    def _convolution(
        self, node: Node, window: Window, weights: LayerWeights, parts: tuple[Part, ...]
    ) -> ConvPlan | None:
        """The plan of a convolution that reads these stored tensors; None where it had better read one in float32."""
        in_shape, out_shape = self._graph.shapes[node.inputs[0]], self._graph.shapes[node.output]
        shape = convolution_shape(node, window, in_shape, out_shape)
        alone, groups = len(parts) == 1, shape.groups
        shares = [weights.of_channels(part.start, part.channels) for part in parts]
        by_rows = alone and shape.suits_rows
        if by_rows:
            shape, shares = shape.rows_as_pixels(), [share.rearranged(_by_rows) for share in shares]
        layers = [
            plan_layer(self._grid(part.name), share, self._isa, shape if alone else None, groups, self._exact)
            for part, share in zip(parts, shares, strict=True)
        ]
        if not alone:
            same_weights = all(part.channels == in_shape[1] for part in parts)
            computed = node.inputs[0] in self._computed
            planned = plan_sum(layers, self._isa, shape if same_weights else None, computed)
            if planned is None:
                if all(layer.grid is not None for layer in layers):
                    self._outrun.add(node.output)
                return None
            layers = planned
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
    """The depthwise kernel takes one input."""
    if len(layers) == 1 and runs_depthwise(layers[0].product, groups, channels, out_channels):
        return "depthwise"
    return "winograd" if layers[0].winograd else "direct"


def _by_rows(weights: npt.NDArray[Any]) -> npt.NDArray[np.generic]:
    """Weights (out_channels, rows, columns, channels) for `ConvShape.rows_as_pixels`."""
    return weights.reshape(*weights.shape[:2], 1, -1)
