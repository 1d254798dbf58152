"""Random layers as any exporter could write them: every combination folds, and computes what it did before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.preprocess.building import fold, model, ops

SHAPES = {"Conv": (2, 4, 5, 5), "ConvTranspose": (2, 4, 5, 5), "Gemm": (3, 4), "MatMul": (2, 3, 4)}
CHANNELS = 6


@dataclass
class Text:
    """A model under construction: node lines and constants; every method returns the name of its result."""

    lines: list[str] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    count: int = 0

    def constant(self, value: object) -> str:
        self.count += 1
        self.constants[f"c{self.count}"] = np.asarray(value)
        return f"c{self.count}"

    def node(self, call: str) -> str:
        self.count += 1
        self.lines.append(f"  t{self.count} = {call}")
        return f"t{self.count}"

    def fake_quant(
        self, data: str, scale: object, point: object, axis: int | None, clip: tuple[int, int] | None
    ) -> str:
        """Q -> [Clip] -> DQ with parameters of their own for each node."""
        attrs = "" if axis is None else f"<axis={axis}> "
        s, z = self.constant(scale), self.constant(point)
        q = self.node(f"QuantizeLinear {attrs}({data}, {s}, {z})")
        if clip is not None:
            low, high = (self.constant(np.array(bound, np.asarray(point).dtype)) for bound in clip)
            q = self.node(f"Clip ({q}, {low}, {high})")
        return self.node(f"DequantizeLinear {attrs}({q}, {self.constant(scale)}, {self.constant(point)})")


def weight_shape(op: str, group: int) -> tuple[tuple[int, ...], int]:
    """Shape of the weights, axis of the output channels."""
    if op == "Conv":
        return (CHANNELS, 4 // group, 3, 3), 0
    if op == "ConvTranspose":
        return (4, CHANNELS // group, 3, 3), 1
    return ((CHANNELS, 4), 0) if op == "Gemm" else ((4, CHANNELS), 1)


def weights(draw: st.DrawFn, text: Text, rng: np.random.Generator, op: str, group: int) -> str:
    """Weights quantized in one of the ways that training tools know."""
    shape, out_axis = weight_shape(op, group)
    values = rng.normal(0, 0.5, shape).astype(np.float32)
    dtype = draw(st.sampled_from([np.int8, np.uint8]))
    axis = draw(st.sampled_from([None, out_axis, 1 - out_axis]))
    size = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.003, 0.02, size).astype(np.float32)
    limits = np.iinfo(dtype)
    point = rng.integers(limits.min, limits.max, size, endpoint=True) if draw(st.booleans()) else np.zeros(size)
    clip = draw(st.sampled_from([None, (limits.min + 1, limits.max), (limits.min // 2, limits.max // 2)]))
    base = text.constant(values)
    if draw(st.booleans()):
        base = text.node(f"Identity ({base})")
    return text.fake_quant(base, scale, point.astype(dtype), axis, clip)


def steps_behind(draw: st.DrawFn, text: Text, rng: np.random.Generator, data: str, rank: int, batchnorm: bool) -> str:
    """Zero to three per-channel steps."""
    along = (1, CHANNELS) + (1,) * (rank - 2) if batchnorm else (CHANNELS,)
    kinds = ["Mul", "Div", "Add", "Sub"] + (["BatchNormalization"] if batchnorm else [])
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=3)):
        operand = rng.uniform(0.5, 2, CHANNELS) * rng.choice([-1, 1], CHANNELS)
        if kind == "BatchNormalization":
            stats = [operand, rng.normal(size=CHANNELS), rng.normal(size=CHANNELS), rng.uniform(0.5, 2, CHANNELS)]
            names = ", ".join(text.constant(one.astype(np.float32)) for one in stats)
            data = text.node(f"BatchNormalization ({data}, {names})")
        else:
            data = text.node(f"{kind} ({data}, {text.constant(operand.astype(np.float32).reshape(along))})")
    return data


@st.composite
def layers(draw: st.DrawFn) -> onnx.ModelProto:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    op = draw(st.sampled_from(list(SHAPES)))
    group = draw(st.sampled_from([1, 2])) if op in ("Conv", "ConvTranspose") else 1
    text, shape = Text(), SHAPES[op]
    dtype = draw(st.sampled_from([np.uint8, np.int8]))
    limits = np.iinfo(dtype)
    point = np.array(draw(st.integers(limits.min, limits.max)), dtype)
    clip = draw(st.sampled_from([None, (0, 127)]))
    wrap = draw(st.sampled_from([(), (1,)]))
    x = text.fake_quant("x", np.full(wrap, 0.02, np.float32), point.reshape(wrap), None, clip)
    w = weights(draw, text, rng, op, group)
    bias = ", " + text.constant(rng.normal(size=CHANNELS).astype(np.float32)) if draw(st.booleans()) else ""
    attrs = {"Conv": f"<group={group}>", "ConvTranspose": f"<group={group}>", "Gemm": "<transB=1>", "MatMul": ""}[op]
    y = text.node(f"{op} {attrs} ({x}, {w}{'' if op == 'MatMul' else bias})")
    y = steps_behind(draw, text, rng, y, len(shape), batchnorm=op != "MatMul")
    text.lines.append(f"  y = LeakyRelu ({y})" if draw(st.booleans()) else f"  y = Neg ({y})")
    dims = ",".join(map(str, shape))
    out = ",".join(["d"] * len(shape)) if op != "Gemm" else f"3,{CHANNELS}"
    out = {"Conv": f"2,{CHANNELS},3,3", "ConvTranspose": f"2,{CHANNELS},7,7", "MatMul": f"2,3,{CHANNELS}"}.get(op, out)
    body = "\n".join(text.lines)
    return model(f"net (float[{dims}] x) => (float[{out}] y)\n{{\n{body}\n}}", **text.constants)


@settings(max_examples=150)
@given(source=layers())
def test_a_random_layer_folds(source: onnx.ModelProto) -> None:
    result = fold(source, "pytorch", rtol=2e-5, spread=2)
    count = ops(result.model)
    assert count["QuantizeLinear"] == 1
    assert not {"Identity", "Div", "Sub"} & set(count) or any(note.action == "skipped" for note in result.log)
