"""Random small QDQ graphs in canonical form.

A graph grows operator by operator. Each tensor's value for one sample is computed by onnxruntime on the way, so that
grids fit what flows through them: neither everything clipped nor everything zero.

`exact` graphs have powers of two as scales and no operator that rounds in float32. Every sum is then exact whatever its
order, ties included, and the compiled network must give every bit of onnxruntime's result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper
from hypothesis import strategies as st

from tests.reference import reference

OPSET = 22  # below it, shape inference disagrees with onnxruntime on pools that round up
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Tensor:
    """A float tensor of the graph; `scale` of its grid, None where it has none."""

    name: str
    value: np.ndarray
    scale: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


@dataclass
class Net:
    """A graph under construction."""

    draw: Draw
    exact: bool
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def pick(self, *values: Any) -> Any:
        """One of some values."""
        return self.draw(st.sampled_from(values))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def name(self) -> str:
        return f"t{len(self.nodes) + len(self.constants)}"

    def constant(self, value: npt.ArrayLike) -> str:
        name = self.name()
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, inputs: list[Tensor | str], outputs: int = 1, **attributes: Any) -> list[Tensor]:
        """Append a node and compute its outputs."""
        names = [i.name if isinstance(i, Tensor) else i for i in inputs]
        results = [f"{self.name()}_{i}" for i in range(outputs)]
        node = oh.make_node(kind, names, results, **attributes)
        node.name = results[0]
        self.nodes.append(node)
        known = {i.name: i.value for i in inputs if isinstance(i, Tensor)}
        used = [c for c in self.constants if c.name in names]
        part = oh.make_graph(
            [node],
            "step",
            [oh.make_tensor_value_info(k, oh.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in known.items()],
            [oh.make_empty_tensor_value_info(r) for r in results],
            used,
        )
        values = reference(oh.make_model(part, opset_imports=[oh.make_opsetid("", OPSET)], ir_version=10), known)
        return [Tensor(r, v) for r, v in zip(results, values, strict=True)]

    def one(self, kind: str, inputs: list[Tensor | str], **attributes: Any) -> Tensor:
        return self.op(kind, inputs, **attributes)[0]

    def scale_for(self, width: float, steps: int) -> float:
        """A step so that `width` takes about `steps` of them."""
        scale = max(width, 1e-3) / steps
        return 2.0 ** round(math.log2(scale)) if self.exact else float(np.float32(scale * self.draw(_STRETCH) / 100))

    def quantized(self, x: Tensor) -> Tensor:
        """Behind a fake-quant whose grid fits the value, more or less."""
        kind = self.pick("uint8", "uint8", "int8", "int8sym", "reduced", "narrow")
        low, high = min(float(x.value.min()), 0.0), max(float(x.value.max()), 0.0)
        dtype = "int8" if kind in ("int8", "int8sym", "narrow") else "uint8"
        qmin, qmax = {"reduced": (0, 127), "narrow": (-8, 7)}.get(kind, (0, 255) if dtype == "uint8" else (-128, 127))
        if kind == "int8sym":
            scale, zero_point = self.scale_for(max(-low, high), 127), 0
        else:
            scale = self.scale_for(high - low, qmax - qmin)
            zero_point = int(np.clip(round(qmin - low / scale), qmin, qmax))
        parameters = [self.constant(np.float32(scale)), self.constant(np.asarray(zero_point, dtype))]
        if kind in ("reduced", "narrow"):
            ends = [self.constant(np.float32((q - zero_point) * np.float32(scale))) for q in (qmin, qmax)]
            x = self.one("Clip", [x, *ends])
        q = self.one("QuantizeLinear", [x, *parameters])
        y = self.one("DequantizeLinear", [q, *parameters])
        return Tensor(y.name, y.value, float(np.float32(scale)))

    def weight(self, shape: tuple[int, ...], out_axis: int, spread: float) -> tuple[Tensor, np.ndarray]:
        """An int8 constant behind its DequantizeLinear, and its scale by output channel."""
        bits = self.pick(8, 8, 8, 4)
        low, high = (-128, 127) if bits == 8 else (-8, 7)
        integers = self.rng.integers(low, high + 1, shape).astype(np.int8)
        if self.pick(True, True, False):  # trained weights are mostly small
            integers = np.clip(self.rng.normal(0, (high - low) / 8, shape).round(), low, high).astype(np.int8)
        per_channel = self.pick(True, False) and shape[out_axis] > 1
        count = shape[out_axis] if per_channel else 1
        scales = np.asarray([self.scale_for(spread, high) for _ in range(count)], np.float32)
        asymmetric = self.pick(False, False, False, True)
        zeros = (self.rng.integers(-20 if bits == 8 else -3, 4, count) if asymmetric else np.zeros(count)).astype(
            np.int8
        )
        if not per_channel:
            scales, zeros = scales.reshape(()), zeros.reshape(())
        names = [self.constant(integers), self.constant(scales), self.constant(zeros)]
        attributes = {"axis": out_axis} if per_channel else {}
        return self.one("DequantizeLinear", [*names], **attributes), np.broadcast_to(scales, shape[out_axis])

    def bias(self, x: Tensor, scales: np.ndarray, channels: int, size: float) -> list[Tensor | str]:
        """No bias, an integer one on the accumulator's grid, or a float one."""
        kind = self.pick("none", "int32", "int32", "float")
        if kind == "none":
            return []
        if (kind == "float" and not self.exact) or x.scale is None:
            return [self.constant(self.rng.normal(0, size, channels).astype(np.float32))]
        grid = np.float32(x.scale) * scales.astype(np.float32)
        integers = np.clip(self.rng.normal(0, size, channels) / grid, -(2**20), 2**20).round().astype(np.int32)
        names = [self.constant(integers), self.constant(grid), self.constant(np.zeros(channels, np.int32))]
        return [self.one("DequantizeLinear", [*names], axis=0)]


_STRETCH = st.integers(60, 170)  # percent


def start(net: Net, name: str, shape: tuple[int, ...]) -> Tensor:
    """A network input behind its fake-quant."""
    value = net.rng.normal(0, 1, shape).astype(np.float32)
    net.inputs[name] = value
    return net.quantized(Tensor(name, value))


def to_model(net: Net, outputs: list[Tensor]) -> onnx.ModelProto:
    """The finished graph."""
    graph = oh.make_graph(
        net.nodes,
        "random",
        [oh.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v.shape) for k, v in net.inputs.items()],
        [oh.make_tensor_value_info(o.name, onnx.TensorProto.FLOAT, o.shape) for o in outputs],
        net.constants,
    )
    made = oh.make_model(graph, opset_imports=[oh.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(made)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
