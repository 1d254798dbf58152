"""What each layer of a network will be computed in, told from the model alone, before anything is compiled.

By the code that lowering decides with: grids (`network.py`), parts (`parts.py`), weights and the width of accumulators
(`layer_weights.py`). What depends on the CPU is left out: x86 without VNNI computes some layers that read their input
by parts faster in float32 than in integers (`lowering.arithmetic.plan_sum`). Here they are integers, and marked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from drpai_qat.core.coverage import LoweredNode, int8_mac_fraction
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.importer_limits import why_not_importable
from drpai_qat.graph.layer_weights import (
    NO_OPERAND_RANGE,
    LayerWeights,
    convolution_weights,
    macs,
    matrix_weights,
    no_kernel,
    products_fit,
    why_float,
)
from drpai_qat.graph.network import Storage
from drpai_qat.graph.operators import IMPORTED, KERNELS
from drpai_qat.graph.parts import takes_parts
from drpai_qat.graph.ranges import MATRIX, selects

_MULTIPLIED = ("uint8", "int8", "int16")


@dataclass(frozen=True)
class ForeseenLayer:
    """What will become of a convolution or matrix product.

    Attributes:
        node: as a compilation tells it.
        by_parts: it multiplies the parts of a tensor without a trained range: in integers if the CPU is faster so.
    """

    node: LoweredNode
    by_parts: bool = False


def foresee_layers(graph: Graph, storage: Storage) -> tuple[ForeseenLayer, ...]:
    """What becomes of each convolution, matrix product and Einsum, in order."""
    seer = _Seer(graph, storage)
    return tuple(seer.layer(node) for node in graph.nodes if macs(graph, node))


def integer_share(layers: Iterable[ForeseenLayer]) -> tuple[float, float]:
    """Share of multiply-accumulates in integers, 0..1: on a CPU that computes none by parts, and on one that does."""
    known = tuple(layers)
    certain = (replace(one.node, compute="float32") if one.by_parts else one.node for one in known)
    return int8_mac_fraction(certain), int8_mac_fraction(one.node for one in known)


def unsupported(graph: Graph) -> tuple[tuple[Node, str], ...]:
    """Nodes that nothing implements, and why; the first of them ends a compilation."""
    found = []
    for node in graph.nodes:
        if node.op in (FAKE_QUANT, QUANTIZE, DEQUANTIZE):
            if node.params is not None and node.params.per_channel:
                found.append((node, "an activation has one grid per channel: export one grid per tensor"))
        elif node.op not in KERNELS and node.op not in IMPORTED:
            found.append((node, "no implementation"))
        elif node.op not in KERNELS and (limit := why_not_importable(graph, node)):
            found.append((node, limit))
    return tuple(found)


def by_importer(graph: Graph) -> tuple[Node, ...]:
    """Nodes of operators without a kernel of ours, which run as TVM imports them: in float32, and slowly."""
    return tuple(node for node in graph.nodes if node.op not in KERNELS and node.op in IMPORTED)


class _Seer:
    def __init__(self, graph: Graph, storage: Storage) -> None:
        self._graph, self._parts, self._grids = graph, storage.parting.parts, storage.stored
        self._producers = {name: node for node in graph.nodes for name in node.outputs}

    def layer(self, node: Node) -> ForeseenLayer:
        weights = self._weights(node) if node.op in MATRIX else None
        by_parts = None if weights is None else self._by_parts(node, weights)
        compute, reason = (by_parts, "") if by_parts is not None else self._whole(node, weights)
        return ForeseenLayer(
            LoweredNode(node.name, node.op, compute, macs(self._graph, node), reason), by_parts is not None
        )

    def _whole(self, node: Node, weights: LayerWeights | None) -> tuple[str, str]:
        if weights is not None:
            return self._constant(node, weights)
        if node.op not in ("Gemm", "MatMul") or not self._plain_matrices(node):
            return "tvm", no_kernel(node.op)
        grids = [self._grid(name) for name in node.inputs[:2]]
        known = [grid for grid in grids if grid is not None]
        reduced = self._graph.shapes[node.inputs[0]][-1]
        if len(known) < 2 or not products_fit(known[0], known[1], reduced):
            return "float32", NO_OPERAND_RANGE
        return ("int8" if all(grid.dtype != "int16" for grid in known) else "int16"), ""

    def _by_parts(self, node: Node, weights: LayerWeights) -> str | None:
        """The width of a product with each part of the input; None where it has none, or integers can't hold one."""
        name = node.inputs[0]
        parts = self._parts.get(name, ())
        if not parts or not takes_parts(self._graph, node, name, parts):
            return None
        grids = [self._grid(part.name) for part in parts]
        if node.op == "Conv":
            shares = [weights.of_channels(part.start, part.channels) for part in parts]
        else:
            shares = [weights] * len(parts)
        if any(why_float(grid, one.integers, one.trained) for grid, one in zip(grids, shares, strict=True)):
            return None
        return _width([grid for grid in grids if grid is not None])

    def _constant(self, node: Node, weights: LayerWeights) -> tuple[str, str]:
        grid = self._grid(node.inputs[0])
        if grid is not None and grid.dtype not in _MULTIPLIED:
            return "tvm", no_kernel(node.op)
        reason = why_float(grid, weights.integers, weights.trained)
        return ("float32", reason) if reason or grid is None else (_width([grid]), "")

    def _weights(self, node: Node) -> LayerWeights | None:
        """The constant weights of a layer with a kernel of ours."""
        weight = self._graph.weight(node.inputs[1])
        if weight is None or any(name and not self._graph.is_constant(name) for name in node.inputs[2:]):
            return None
        if node.op in ("Gemm", "MatMul"):
            bias = self._graph.shapes[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else ()
            wide = math.prod(bias) not in (1, self._graph.shapes[node.output][-1])
            return None if wide or (math.prod(bias) > 1 and bias[-1] == 1) else matrix_weights(self._graph, node)
        if len(self._graph.shapes[node.inputs[0]]) not in (3, 4):
            return None
        if node.op == "Conv":
            return convolution_weights(weight)
        rank = len(weight.shape)
        # By output channel of a group; which taps an output has matters to no reason.
        return LayerWeights.of(weight, (1, *range(2, rank), 0), 1)

    def _plain_matrices(self, node: Node) -> bool:
        constant = node.op == "Gemm" and (len(node.inputs) > 2 or node.attributes.get("alpha", 1.0) != 1.0)
        return not constant and all(len(self._graph.shapes[name]) >= 2 for name in node.inputs)

    def _grid(self, name: str) -> Grid | None:
        """On which a tensor is stored: what only moves or selects elements leaves them as they are."""
        node = self._producers.get(name)
        while name not in self._grids and node is not None and selects(node):
            name = node.inputs[0]
            node = self._producers.get(name)
        return self._grids.get(name)


def _width(grids: Sequence[Grid]) -> str:
    return "int8" if all(grid.qmax - grid.qmin <= 255 for grid in grids) else "int16"
