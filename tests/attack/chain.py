"""Nodes put behind a tensor of a model, with the constants they need."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Shape = tuple[int, ...]


class Chain:
    """What is put in, in order; nothing changes in the model until `join`.

    Attributes:
        rng: draws for whoever builds.
        numbers: the same for arrays.
        opset: of ONNX, that the model imports.
    """

    def __init__(self, rng: random.Random, opset: int, prefix: str) -> None:
        self.rng = rng
        self.numbers = np.random.default_rng(rng.getrandbits(32))
        self.opset = opset
        self._prefix = prefix
        self._count = 0
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def name(self) -> str:
        """A name that nothing has."""
        self._count += 1
        return f"{self._prefix}_{self._count}"

    def constant(self, value: object, dtype: object = np.float32) -> str:
        """A constant's name."""
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))  # type: ignore[call-overload]
        return name

    def indices(self, value: object) -> str:
        """The same for integers that count or point."""
        return self.constant(value, np.int64)

    def make(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        """Put a node in; returns the names of its outputs."""
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}_{names[0]}", **attributes))
        return names

    def op(self, operator: str, *inputs: str, **attributes: object) -> str:
        """The same for a node with one output."""
        return self.make(operator, *inputs, **attributes)[0]  # type: ignore[arg-type]

    def spread(self, shape: Sequence[int], size: float = 1.0) -> np.ndarray:
        """Normal numbers."""
        return self.numbers.normal(0, size, tuple(shape)).astype(np.float32)

    def join(self, graph: GraphProto, at: int, source: str, result: str) -> None:
        """Put all of it at a place of the graph's list of nodes: what read `source` from there on reads `result`."""
        for node in list(graph.node)[at:]:
            for index, name in enumerate(node.input):
                if name == source:
                    node.input[index] = result
        behind = list(graph.node)[at:]
        del graph.node[at:]
        graph.node.extend(self.nodes)
        graph.node.extend(behind)
        graph.initializer.extend(self.constants)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's operators that a file imports."""
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=13)


def float_tensors(model: onnx.ModelProto) -> list[tuple[int, str, Shape]]:
    """Computed float32 tensors of known shape, each with the place in the list of nodes from which it is there.

    Inputs of unknown size count as of size 1, which is what a compilation makes of them.
    """
    static = onnx.ModelProto.FromString(model.SerializeToString())
    for value in static.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    for value in static.graph.output:
        value.type.tensor_type.ClearField("shape")
    del static.graph.value_info[:]
    known = {}
    for value in [*onnx.shape_inference.infer_shapes(static).graph.value_info, *static.graph.input]:
        kind = value.type.tensor_type
        dims = [one.dim_value for one in kind.shape.dim]
        if kind.elem_type == TensorProto.FLOAT and kind.HasField("shape") and all(one > 0 for one in dims):
            known[value.name] = tuple(dims)
    computed = {one.name for one in static.graph.input} - {one.name for one in static.graph.initializer}
    found = [(0, name, known[name]) for name in sorted(computed & known.keys())]
    for at, node in enumerate(static.graph.node):
        if any(name in computed for name in node.input):
            computed.update(node.output)
            found += [(at + 1, name, known[name]) for name in node.output if name in known]
    return [one for one in found if np.prod(one[2], dtype=np.int64) <= 2**17]
