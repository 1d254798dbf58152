"""Writes new nodes around an old one, for passes that translate an operator into several."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Names


class Writer:
    """Collects the nodes that a pass makes; `finish` puts them into the graph.

    Attributes:
        base: name that those of new nodes and tensors start with; the pass sets it node by node.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.base = ""
        self._graph = graph
        self._names = Names(graph)
        self._made: list[gs.Node] = []

    def emit(
        self,
        op: str,
        inputs: list[gs.Tensor],
        output: gs.Tensor | None = None,
        /,
        dtype: Any = np.float32,
        **attrs: Any,
    ) -> gs.Tensor:
        """Append a node.

        Args:
            output: tensor that it writes; None: a new one.
            dtype: type of a new output.
        Returns: its output.
        """
        name = self._names(f"{self.base}_{op.lower()}")
        if output is None:
            output = gs.Variable(self._names(f"{name}_output"), np.dtype(dtype))
        self._made.append(gs.Node(op, name, attrs, inputs, [output]))
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> gs.Constant:
        """A new constant."""
        return gs.Constant(self._names(f"{self.base}_constant"), np.ascontiguousarray(np.asarray(value, dtype)))

    def dequantize(self, integers: gs.Tensor, grid: list[gs.Tensor], axis: int | None = None) -> gs.Tensor:
        """Reals of `integers`; `grid`: scale and zero point."""
        return self.emit(DEQUANTIZE, [integers, *grid], **({} if axis is None else {"axis": axis}))

    def quantize(self, reals: gs.Tensor, grid: list[gs.Tensor], output: gs.Tensor | None = None) -> gs.Tensor:
        """Integers of `reals`."""
        return self.emit(QUANTIZE, [reals, *grid], output, grid[1].dtype)

    def finish(self) -> gs.Graph:
        """The graph with the new nodes, in order."""
        self._graph.nodes.extend(self._made)
        return self._graph.cleanup().toposort() if self._made else self._graph


def taken_apart(node: gs.Node) -> tuple[list[gs.Tensor], gs.Tensor]:
    """Cut `node` off; returns its inputs and its output, which is to be written by others."""
    inputs, output = list(node.inputs), node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    return inputs, output
