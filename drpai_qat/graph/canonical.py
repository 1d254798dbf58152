"""The canonical QDQ model as lowering reads it: float values, some of them on an integer grid.

A QuantizeLinear and the DequantizeLinears behind it become one `FakeQuant` step on a float value; `ranges.py` finds the
grids that tensors lie on. What remains at the borders (integer graph inputs and outputs, as the layer check
uses them) are `Dequantize` and `Quantize` steps. Weights stay integers: `Graph.weight` reads them behind their
DequantizeLinear.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

from drpai_qat.core.errors import LoweringError
from drpai_qat.core.quantization import QuantParams

Array = npt.NDArray[np.generic]

DTYPES = frozenset(
    ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
)

FAKE_QUANT, QUANTIZE, DEQUANTIZE = "FakeQuant", "Quantize", "Dequantize"

_RANGE = ("drpai_qat.qmin", "drpai_qat.qmax")  # metadata of a node; preprocess keeps none of a user's file


@dataclass(frozen=True)
class Node:
    """One step of the graph.

    Attributes:
        op: ONNX operator, or FakeQuant, Quantize, Dequantize.
        attributes: Python values; tensors as numpy arrays.
        params: the grid of a FakeQuant, Quantize or Dequantize step.
        source: the ONNX nodes it stands for.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    params: QuantParams | None = None
    source: tuple[onnx.NodeProto, ...] = ()

    @property
    def output(self) -> str:
        """The first output, which names the node's place in the graph."""
        return self.outputs[0]


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant operand: real = scale * (values - zero_point) along the grid's axis, or plain values.

    Attributes:
        values: as the file has them, ONNX shape.
        params: the grid of integer values; None for plain ones.
    """

    values: Array
    params: QuantParams | None = None

    @property
    def integers(self) -> Array | None:
        """The values of a quantized constant; None for plain ones."""
        return None if self.params is None else self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """ONNX shape."""
        return self.values.shape

    @functools.cached_property
    def real(self) -> npt.NDArray[np.float32]:
        """float32 values, ONNX shape; made when first read, since most weights are read as integers only."""
        if self.params is None:
            return np.asarray(self.values, np.float32)
        return self.params.dequantize(np.asarray(self.values, self.params.dtype))


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order and what is known of every tensor.

    Attributes:
        nodes: each reads graph inputs, constants and outputs of nodes before it.
        constants: plain constant tensors by name (parameters of quantizers, shapes, indices ...).
        shapes: static shape of every tensor; dtypes: numpy's name of its type, "float32" for a quantized value.
        inputs, outputs: of the network, in the file's order.
        weights: constants behind a DequantizeLinear, by the name of its output.
        opset: of the file's default domain.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: dict[str, Weight]
    opset: int

    def with_nodes(self, nodes: tuple[Node, ...]) -> Graph:
        """The graph with other nodes and the same tensors."""
        return replace(self, nodes=nodes)

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor, in order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def is_constant(self, name: str) -> bool:
        """The tensor is known when compiling."""
        return name in self.constants or name in self.weights

    def constant(self, name: str) -> Array | None:
        """Value of a constant tensor (dequantized where it is quantized), else None."""
        if name in self.constants:
            return self.constants[name]
        weight = self.weights.get(name)
        return None if weight is None else weight.real

    def weight(self, name: str) -> Weight | None:
        """A constant with its integers where it is quantized; None for tensors that are not constant."""
        if name in self.weights:
            return self.weights[name]
        if name in self.constants:
            return Weight(self.constants[name])
        return None


def read_graph(model: onnx.ModelProto) -> Graph:
    """Read a canonical QDQ model.

    Raises: LoweringError: a tensor has no static shape, or quantization parameters are not constants.
    """
    proto = model.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.initializer}
    shapes, dtypes = _tensor_types(proto)
    for name, value in constants.items():
        shapes[name], dtypes[name] = tuple(value.shape), value.dtype.name
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 13)
    nodes, weights, aliases = _merge_quantization(proto, constants)
    graph = Graph(
        nodes=tuple(_renamed(node, aliases) for node in nodes),
        constants=constants,
        shapes=shapes,
        dtypes=dtypes,
        inputs=tuple(i.name for i in proto.input if i.name not in constants),
        outputs=tuple(o.name for o in proto.output),
        weights=weights,
        opset=opset,
    )
    for name in graph.inputs:
        if name not in shapes or name not in dtypes:
            raise LoweringError(f"input {name!r} is not a tensor of static shape")
        if 0 in shapes[name]:
            raise LoweringError(f"input {name!r} is empty")
    for node in graph.nodes:
        if node.op == FAKE_QUANT and node.output not in shapes:  # a Q without a DQ of its own: nobody named the value
            shapes[node.output], dtypes[node.output] = shapes[node.inputs[0]], "float32"
        for name in node.outputs:
            if name and name not in shapes:
                raise LoweringError(f"node {node.name!r} ({node.op}): the shape of its output {name!r} is not static")
            if name and 0 in shapes[name]:
                raise LoweringError(f"node {node.name!r} ({node.op}): its output {name!r} is empty")
    return graph


def _tensor_types(proto: onnx.GraphProto) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for info in (*proto.input, *proto.value_info, *proto.output):
        tensor = info.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[info.name] = tuple(d.dim_value for d in dims)
        if tensor.elem_type:
            dtypes[info.name] = _dtype_name(info.name, tensor.elem_type)
    return shapes, dtypes


def _dtype_name(name: str, elem_type: int) -> str:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name
    if dtype not in DTYPES:
        raise LoweringError(f"tensor {name!r}: type {onnx.TensorProto.DataType.Name(elem_type)} is not supported")
    return dtype


def _merge_quantization(
    proto: onnx.GraphProto, constants: dict[str, Array]
) -> tuple[list[Node], dict[str, Weight], dict[str, str]]:
    """Q -> DQ becomes FakeQuant; DQ of constants become weights; aliases name the values that are the same tensor."""
    weights: dict[str, Weight] = {}
    aliases: dict[str, str] = {}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    graph_outputs = {o.name for o in proto.output}
    fake_quants: dict[str, tuple[str, QuantParams]] = {}  # Q output -> (float value it became, its grid)
    nodes: list[Node] = []
    for index, node in enumerate(proto.node):
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is None:
                raise LoweringError(f"Constant node {node.name!r}: only tensor values are canonical")
            constants[node.output[0]] = onnx.numpy_helper.to_array(value)
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights[node.output[0]] = _weight(node, constants)
        elif node.op_type == "QuantizeLinear":
            params = _params(node, constants)
            name, value = _name(node, index), node.output[0]
            dequantizers = [r for r in readers.get(value, []) if r.op_type == "DequantizeLinear"]
            matching = [r for r in dequantizers if _params(r, constants) == params]
            real = matching[0].output[0] if matching else f"{value}::real"
            fake_quants[value] = (real, params)
            nodes.append(Node(name, FAKE_QUANT, (node.input[0],), (real,), {}, params, (node, *matching[:1])))
            others = [r for r in readers.get(value, []) if not any(r is m for m in matching)]
            if value in graph_outputs or others:
                nodes.append(Node(f"{name}:integers", QUANTIZE, (real,), (value,), {}, params, (node,)))
        elif node.op_type == "DequantizeLinear":
            params = _params(node, constants)
            known = fake_quants.get(node.input[0])
            if known is not None and known[1] == params:
                if node.output[0] != known[0]:
                    if node.output[0] in graph_outputs:
                        nodes.append(
                            Node(_name(node, index), "Identity", (known[0],), (node.output[0],), {}, None, (node,))
                        )
                    else:
                        aliases[node.output[0]] = known[0]
                continue
            nodes.append(Node(_name(node, index), DEQUANTIZE, (node.input[0],), (node.output[0],), {}, params, (node,)))
        else:
            attributes = {a.name: _attribute(a) for a in node.attribute}
            nodes.append(
                Node(_name(node, index), node.op_type, tuple(node.input), tuple(node.output), attributes, None, (node,))
            )
    return nodes, weights, aliases


def _name(node: onnx.NodeProto, index: int) -> str:
    return node.name or f"{node.op_type}_{index}"


def _renamed(node: Node, aliases: dict[str, str]) -> Node:
    if not any(name in aliases for name in node.inputs):
        return node
    return replace(node, inputs=tuple(aliases.get(name, name) for name in node.inputs))


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return list(value) if attribute.ints or attribute.floats else value


def state_range(node: onnx.NodeProto, qmin: int, qmax: int) -> None:
    """Note at a DequantizeLinear that its integers lie within qmin..qmax: a promise, which nothing enforces."""
    for name, value in zip(_RANGE, (qmin, qmax), strict=True):
        node.metadata_props.add(key=name, value=str(value))


def _stated_range(node: onnx.NodeProto) -> tuple[int, int] | None:
    stated = {one.key: one.value for one in node.metadata_props}
    return (int(stated[_RANGE[0]]), int(stated[_RANGE[1]])) if stated.keys() >= set(_RANGE) else None


def _params(node: onnx.NodeProto, constants: dict[str, Array]) -> QuantParams:
    missing = [name for name in node.input[1:] if name and name not in constants]
    if missing:
        raise LoweringError(f"node {node.name!r} ({node.op_type}): {missing[0]!r} is not a constant")
    given: list[Any] = [constants[name] for name in node.input[1:] if name]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    read = QuantParams.read(given[0], given[1] if len(given) > 1 else None, axis=axis, where=f"node {node.name!r}")
    stated = _stated_range(node)
    return read if stated is None else replace(read, qmin=stated[0], qmax=stated[1])


def _weight(node: onnx.NodeProto, constants: dict[str, Array]) -> Weight:
    integers = constants[node.input[0]]
    return Weight(integers, _params_of_weight(node, constants, integers))


def _params_of_weight(node: onnx.NodeProto, constants: dict[str, Array], integers: Array) -> QuantParams:
    scale = constants[node.input[1]]
    zero_point = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros((), integers.dtype)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    per_channel = scale.ndim == 1 and scale.size > 1
    return QuantParams.of(
        scale, zero_point, integers.dtype, axis=axis % max(1, integers.ndim) if per_channel else None,
        where=f"node {node.name!r}",
    )  # fmt: skip
