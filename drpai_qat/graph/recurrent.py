"""LSTM, GRU and RNN unrolled over their (static) time steps into matrix products and elementwise steps.

The projection of all inputs is one product, X W^T + b; each step adds h R^T and applies the gates:

    LSTM  i, o, f = sigmoid, c~ = tanh;  c = f*c + i*c~;  h = o * tanh(c);  peepholes: i and f see P * c, o the new c
    GRU   z, r = sigmoid;  h~ = tanh(x_h + r * (h R_h^T + b_R)) or tanh(x_h + (r*h) R_h^T + b_R);  h = (1-z)*h~ + z*h
    RNN   h = tanh(x + h R^T)

Other functions may stand for sigmoid and tanh, and their arguments be clipped. A state that begins at zero takes no
product in its first step. Weights behind a DequantizeLinear stay integers. Source: ONNX operators LSTM-14, GRU-14 and
RNN-14.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper

Array = npt.NDArray[np.generic]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_ACTIVATIONS = frozenset(("Sigmoid", "Tanh", "Relu", "HardSigmoid", "LeakyRelu", "Elu", "Softsign", "Softplus"))


def expand_recurrent(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each LSTM, GRU and RNN unrolled; sequences of their own length each, for example, stay."""
    if not any(node.op_type in GATES for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    builder = _Builder(result)
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        cell = _cell(node, builder) if node.op_type in GATES else None
        if cell is None:
            nodes.append(node)
            continue
        builder.nodes = []
        _unroll(cell, builder)
        nodes += builder.nodes
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


@dataclass(frozen=True)
class _Cell:
    """One recurrent node with everything that must be constant for unrolling."""

    node: onnx.NodeProto
    steps: int
    batch: int
    hidden: int
    directions: tuple[bool, ...]  # runs backwards?
    linear_before_reset: bool
    activations: tuple[str, ...]  # of all directions
    clip: float


def _cell(node: onnx.NodeProto, builder: _Builder) -> _Cell | None:
    attributes = {a.name: oh.get_attribute_value(a) for a in node.attribute}
    direction = attributes.get("direction", b"forward").decode()
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    usual = _DEFAULT_ACTIVATIONS[node.op_type] * len(directions)
    activations = [a.decode() for a in attributes.get("activations", [])] or usual
    own_parameters = activations != usual and ("activation_alpha" in attributes or "activation_beta" in attributes)
    shape = builder.shapes.get(node.input[0])
    names = [*node.input, *[""] * (8 - len(node.input))]
    if own_parameters or not _ACTIVATIONS.issuperset(activations) or attributes.get("layout", 0) or shape is None:
        return None
    if names[7] and names[7] not in builder.constants:
        return None
    if attributes.get("input_forget", 0) or any(builder.weight(name) is None for name in names[1:4] if name):
        return None
    if names[4] and (names[4] not in builder.constants or (builder.constants[names[4]] != shape[0]).any()):
        return None
    linear = bool(attributes.get("linear_before_reset", 0))
    clip = float(attributes.get("clip", 0.0))
    return _Cell(node, shape[0], shape[1], int(attributes["hidden_size"]), directions, linear, tuple(activations), clip)


def _unroll(cell: _Cell, builder: _Builder) -> None:
    node, names = cell.node, [*cell.node.input, *[""] * (8 - len(cell.node.input))]
    outputs = [*node.output, *[""] * (3 - len(node.output))]
    sequences, last_h, last_c = [], [], []
    for index, backwards in enumerate(cell.directions):
        step = _Steps(cell, builder, index, names)
        state = [step.initial(names[5]), step.initial(names[6]) if node.op_type == "LSTM" else ""]
        advance = {"LSTM": step.lstm, "GRU": step.gru, "RNN": step.rnn}[node.op_type]
        hidden = [""] * cell.steps
        for t in reversed(range(cell.steps)) if backwards else range(cell.steps):
            state = advance(t, *state)
            hidden[t] = state[0]
        sequences.append(hidden)
        last_h.append(state[0])
        last_c.append(state[1])
    batch, size = cell.batch, cell.hidden
    if outputs[0]:
        rows = [builder.view(h, (1, 1, batch, size)) for hidden in zip(*sequences, strict=True) for h in hidden]
        flat = builder.emit("Concat", rows, (len(rows), 1, batch, size), axis=0)
        builder.view(flat, (cell.steps, len(cell.directions), batch, size), outputs[0])
    for output, values in ((outputs[1], last_h), (outputs[2], last_c)):
        if output:
            rows = [builder.view(v, (1, batch, size)) for v in values]
            builder.emit("Concat", rows, (len(rows), batch, size), output, axis=0)


class _Steps:
    """The steps of one direction; the projection of all inputs is computed once, when this is made."""

    def __init__(self, cell: _Cell, builder: _Builder, direction: int, names: list[str]) -> None:
        self.cell, self.builder = cell, builder
        gates = GATES[cell.node.op_type]
        self.width = gates * cell.hidden
        biases = builder.constants[names[3]][direction] if names[3] else np.zeros(2 * self.width, np.float32)
        recurrent_bias = biases[self.width :].copy()
        total = biases[: self.width] + recurrent_bias
        if cell.node.op_type == "GRU" and cell.linear_before_reset:
            total[2 * cell.hidden :] -= recurrent_bias[2 * cell.hidden :]  # it is multiplied by the reset gate
        self.hidden_bias = builder.constant(recurrent_bias[2 * cell.hidden :])
        matrix = builder.matrix(names[1], direction, slice(None))
        shape = (cell.steps, cell.batch, self.width)
        product = builder.emit("MatMul", [names[0], matrix], shape)
        self.projected = builder.emit("Add", [product, builder.constant(total)], shape)
        split = 2 * cell.hidden if cell.node.op_type == "GRU" else self.width
        self.recurrent = builder.matrix(names[2], direction, slice(0, split))
        self.candidate = builder.matrix(names[2], direction, slice(split, None)) if cell.node.op_type == "GRU" else ""
        self.direction = direction
        self.peepholes = [""] * 3  # of i, o, f
        if names[7]:
            values = builder.constants[names[7]][direction].reshape(3, cell.hidden)
            self.peepholes = [builder.constant(one) for one in values]

    def initial(self, name: str) -> str:
        """The state before the first step; "" where it is zero."""
        shape = (self.cell.batch, self.cell.hidden)
        if not name or (name in self.builder.constants and not self.builder.constants[name].any()):
            return ""
        part = self.builder.slice(name, 0, self.direction, self.direction + 1, (1, *shape))
        return self.builder.view(part, shape)

    def _inputs(self, t: int) -> str:
        step = self.builder.slice(self.projected, 0, t, t + 1, (1, self.cell.batch, self.width))
        return self.builder.view(step, (self.cell.batch, self.width))

    def _gate(self, value: str, index: int) -> str:
        size = self.cell.hidden
        return self.builder.slice(value, 1, index * size, (index + 1) * size, (self.cell.batch, size))

    def _activated(self, value: str, which: int, shape: tuple[int, ...]) -> str:
        """The cell's function number `which` of a value."""
        emit, functions = self.builder.emit, len(_DEFAULT_ACTIVATIONS[self.cell.node.op_type])
        if self.cell.clip and which < 2:  # as onnxruntime: the cell state itself is not clipped
            limits = [self.builder.constant(np.asarray(end * self.cell.clip, np.float32)) for end in (-1, 1)]
            value = emit("Clip", [value, *limits], shape)
        return emit(self.cell.activations[self.direction * functions + which], [value], shape)

    def _recurrent(self, t: int, h: str, width: int) -> str:
        """The first `width` sums of gates: of the step's inputs, and of the state by its weights."""
        shape = (self.cell.batch, width)
        inputs = self._inputs(t)
        if width < self.width:
            inputs = self.builder.slice(inputs, 1, 0, width, shape)
        if not h:
            return inputs
        return self.builder.emit("Add", [self.builder.emit("MatMul", [h, self.recurrent], shape), inputs], shape)

    def rnn(self, t: int, h: str, _: str) -> list[str]:
        return [self._activated(self._recurrent(t, h, self.width), 0, (self.cell.batch, self.cell.hidden)), ""]

    def lstm(self, t: int, h: str, c: str) -> list[str]:
        emit, shape = self.builder.emit, (self.cell.batch, self.cell.hidden)
        total = self._recurrent(t, h, self.width)

        def gate(index: int, seen: str) -> str:
            value = self._gate(total, index)
            if self.peepholes[index] and seen:
                value = emit("Add", [value, emit("Mul", [seen, self.peepholes[index]], shape)], shape)
            return self._activated(value, 0, shape)

        candidate = self._activated(self._gate(total, 3), 1, shape)
        new = emit("Mul", [gate(0, c), candidate], shape)
        if c:
            new = emit("Add", [emit("Mul", [gate(2, c), c], shape), new], shape)
        return [emit("Mul", [gate(1, new), self._activated(new, 2, shape)], shape), new]

    def gru(self, t: int, h: str, _: str) -> list[str]:
        emit, size, batch = self.builder.emit, self.cell.hidden, self.cell.batch
        shape = (batch, size)
        gates = self._activated(self._recurrent(t, h, 2 * size), 0, (batch, 2 * size))
        z, r = self._gate(gates, 0), self._gate(gates, 1)
        total = self._gate(self._inputs(t), 2)
        if self.cell.linear_before_reset:
            linear = emit("MatMul", [h, self.candidate], shape) if h else ""
            linear = emit("Add", [linear, self.hidden_bias], shape) if h else self.hidden_bias
            total = emit("Add", [total, emit("Mul", [r, linear], shape)], shape)
        elif h:
            total = emit("Add", [total, emit("MatMul", [emit("Mul", [r, h], shape), self.candidate], shape)], shape)
        candidate = self._activated(total, 1, shape)
        old = emit("Sub", [h, candidate], shape) if h else emit("Neg", [candidate], shape)
        return [emit("Add", [candidate, emit("Mul", [z, old], shape)], shape), ""]


@dataclass
class _Builder:
    """Appends nodes, with the shape of every new tensor noted in the model."""

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _dequantize: dict[str, onnx.NodeProto] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        for info in (*graph.input, *graph.value_info, *graph.output):
            self.shapes[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        self._dequantize = {
            n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in self.constants
        }

    def weight(self, name: str) -> str | None:
        """The name if it is a constant, quantized or not."""
        return name if name in self.constants or name in self._dequantize else None

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"unrolled/{kind}_{self._count}"

    def constant(self, value: Array) -> str:
        name = self._name("constant")
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.constants[name] = value
        return name

    def matrix(self, name: str, direction: int, rows: slice) -> str:
        """W[direction, rows] transposed, (inputs, gates); int8 behind a DequantizeLinear where W is."""
        node = self._dequantize.get(name)
        if node is None:
            return self.constant(self.constants[name][direction, rows].T)
        integers, scale, zero = (self.constants[n] for n in node.input)
        parts = [self.constant(integers[direction, rows].T)]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % 3
        extra: dict[str, int] = {}
        if scale.size > 1:  # axes (direction, gates, inputs) become (inputs, gates)
            chosen: slice | int = (direction, rows, slice(None))[axis]
            scale, zero = np.asarray(scale[chosen]), np.asarray(zero[chosen])
            extra = {} if axis == 0 else {"axis": 2 - axis}
        parts += [self.constant(scale), self.constant(zero)]
        inputs, gates = self.constants[parts[0]].shape
        return self.emit("DequantizeLinear", parts, (inputs, gates), "", **extra)

    def view(self, name: str, shape: tuple[int, ...], output: str = "") -> str:
        return self.emit("Reshape", [name, self.constant(np.asarray(shape, np.int64))], shape, output)

    def slice(self, name: str, axis: int, start: int, end: int, shape: tuple[int, ...]) -> str:
        limits = [self.constant(np.asarray([value], np.int64)) for value in (start, end, axis)]
        return self.emit("Slice", [name, *limits], shape)

    def emit(self, op: str, inputs: list[str], shape: tuple[int, ...], output: str = "", **attributes: int) -> str:
        output = output or self._name(op.lower())
        self.nodes.append(oh.make_node(op, inputs, [output], name=self._name(f"node_{op.lower()}"), **attributes))
        if output not in self.shapes:
            self.shapes[output] = shape
            self.model.graph.value_info.append(oh.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))
        return output
