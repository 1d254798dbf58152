"""Random graphs of views, elementwise steps, limits and roundings: the TensorFlow passes keep every bit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.preprocess.building import fold

FLOAT = onnx.TensorProto.FLOAT
KINDS = ("view", "view", "view", "unary", "constant", "limit", "pair", "moved", "join")


class Builder:
    """A graph that grows by random steps; `shapes` holds its float tensors, in order."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": (2, 3, 4)}
        self.counter = itertools.count()
        self.rng = np.random.default_rng(draw(st.integers(0, 1000)))

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"c{next(self.counter)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...] | None, **attrs: object) -> str:
        name = f"t{next(self.counter)}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name=f"n_{name}", **attrs))
        if shape is not None:
            self.shapes[name] = shape
        return name

    def grid(self) -> list[str]:
        scale = np.float32(self.draw(st.sampled_from([0.02, 0.05, 0.1])))
        return [self.constant(scale), self.constant(np.uint8(self.draw(st.sampled_from([0, 100, 128]))))]

    def step(self) -> None:
        source = self.draw(st.sampled_from(list(self.shapes)[-3:]))
        shape = self.shapes[source]
        kind = self.draw(st.sampled_from(KINDS))
        if kind == "view":
            self.view(source, shape, floats=True)
        elif kind == "unary":
            self.add(self.draw(st.sampled_from(["Relu", "Sigmoid", "Neg", "Tanh", "Abs"])), [source], shape)
        elif kind == "constant":
            wide = self.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
            sizes = [size if keep else 1 for size, keep in zip(shape, wide, strict=True)]
            value = self.constant(self.rng.normal(size=sizes).astype(np.float32))
            self.add(self.draw(st.sampled_from(["Add", "Mul", "Sub"])), [source, value], shape)
        elif kind == "limit":
            bound = self.constant(np.float32(self.draw(st.sampled_from([-1, 0, 0.5, 2]))))
            self.add(self.draw(st.sampled_from(["Min", "Max"])), [source, bound], shape)
        elif kind == "pair":
            grid = self.grid()
            self.add("DequantizeLinear", [self.add("QuantizeLinear", [source, *grid], None), *grid], shape)
        elif kind == "moved":
            grid = self.grid()
            tensor = self.add("QuantizeLinear", [source, *grid], None)
            for _ in range(self.draw(st.integers(1, 3))):
                tensor, shape = self.view(tensor, shape, floats=False)
            self.add("DequantizeLinear", [tensor, *grid], shape)
        else:
            twins = [name for name, other in self.shapes.items() if other == shape]
            self.add("Add", [source, self.draw(st.sampled_from(twins))], shape)

    def view(self, source: str, shape: tuple[int, ...], *, floats: bool) -> tuple[str, tuple[int, ...]]:
        op = self.draw(st.sampled_from(["Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"]))
        inputs: list[str] = [source]
        attrs: dict[str, object] = {}
        new: tuple[int, ...]
        if op == "Unsqueeze" and len(shape) < 5:
            axis = self.draw(st.integers(0, len(shape)))
            new = (*shape[:axis], 1, *shape[axis:])
            inputs.append(self.constant(np.array([axis], np.int64)))
        elif op == "Squeeze" and 1 in shape and len(shape) > 1:
            axis = shape.index(1)
            new = (*shape[:axis], *shape[axis + 1 :])
            inputs.append(self.constant(np.array([axis], np.int64)))
        elif op == "Flatten":
            new = (shape[0], math.prod(shape[1:]))
        elif op == "Reshape":
            new = self.draw(st.sampled_from([(2, 3, 4), (6, 4), (4, 6), (1, 2, 12), (24,), (2, 3, 2, 2), (3, 8, 1)]))
            inputs.append(self.constant(np.array(new, np.int64)))
        else:
            op, perm = "Transpose", self.draw(st.permutations(range(len(shape))))
            new, attrs["perm"] = tuple(shape[axis] for axis in perm), perm
        return self.add(op, inputs, new if floats else None, **attrs), new

    def model(self) -> onnx.ModelProto:
        grid = self.grid()
        last = list(self.shapes)[-1]
        self.add("DequantizeLinear", [self.add("QuantizeLinear", [last, *grid], None), *grid], self.shapes[last])
        names = {list(self.shapes)[-1], self.draw(st.sampled_from(list(self.shapes)[1:]))}
        outputs = [onnx.helper.make_tensor_value_info(name, FLOAT, self.shapes[name]) for name in sorted(names)]
        source = [onnx.helper.make_tensor_value_info("x", FLOAT, (2, 3, 4))]
        graph = onnx.helper.make_graph(self.nodes, "random", source, outputs, self.constants)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    builder = Builder(draw)
    for _ in range(draw(st.integers(1, 12))):
        builder.step()
    return builder.model()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(graphs())
def test_random_graphs_keep_every_bit(source: onnx.ModelProto) -> None:
    try:
        fold(source, "tensorflow")
    except AssertionError as error:
        assume("zeros" not in str(error))
        raise
