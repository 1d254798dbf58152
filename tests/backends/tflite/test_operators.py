"""Each operator between trained grids: at most one step from onnxruntime, in XNNPACK and in the plain kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from drpai_qat.backends.tflite.running import WrittenNetwork
from drpai_qat.runtimes.onnxruntime import Reference
from tests.backends.tflite.running import (
    BOTH,
    dequantized,
    grid,
    model,
    normal,
    qdq,
    steps_apart,
    weights,
    written,
)

ROWS, IMAGE = "float[1,12,10]", "float[1,8,6,6]"


def between(body: str, shape: str, result: str, **constants: Any) -> onnx.ModelProto:
    """An operator that makes t of a, between a grid on its input and one on its result."""
    return model(
        f"({shape} x) => ({result} y)",
        f"{qdq('x', 'a', 'x')} {body} {qdq('t', 'y', 'y')}",
        **{**grid("x", 0.024, 117), **grid("y", 0.031, 130), **constants},
    )


def layer(body: str, result: str, *shape: int, axis: int = 0, source: str = IMAGE, **constants: Any) -> onnx.ModelProto:
    """A layer w with its weights."""
    return between(f"{dequantized('w', axis)} {body}", source, result, **weights("w", *shape, axis=axis), **constants)


LAYERS = {
    "1d": layer("t = Conv <pads=[2,1], strides=[2]> (a, w, b)", "float[1,5,6]", 5, 12, 3, source=ROWS, b=normal(5)),
    "strided": layer("t = Conv <strides=[2,2]> (a, w)", "float[1,4,2,2]", 4, 8, 3, 3),
    "dilated": layer("t = Conv <pads=[2,2,2,2], dilations=[2,2]> (a, w, b)", "float[1,4,6,6]", 4, 8, 3, 3, b=normal(4)),
    "depthwise": layer("t = Conv <group=8, pads=[1,1,1,1]> (a, w, b)", "float[1,8,6,6]", 8, 1, 3, 3, b=normal(8)),
    "multiplier": layer("t = Conv <group=8, pads=[1,1,1,1]> (a, w)", "float[1,16,6,6]", 16, 1, 3, 3),
    "grouped": layer("t = Conv <group=2, pads=[1,1,1,1]> (a, w, b)", "float[1,6,6,6]", 6, 4, 3, 3, b=normal(6)),
    "same_lower": layer("t = Conv <pads=[1,1,0,0], strides=[2,2]> (a, w)", "float[1,4,3,3]", 4, 8, 3, 3),
    "transposed": layer(
        "t = ConvTranspose <strides=[2,2]> (a, w, b)", "float[1,3,12,12]", 8, 3, 2, 2, axis=1, b=normal(3)
    ),
    "transposed_same": layer(
        "t = ConvTranspose <strides=[2,2], pads=[0,0,1,1]> (a, w)", "float[1,3,12,12]", 8, 3, 3, 3, axis=1
    ),
    "transposed_cut": layer(
        "t = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]> (a, w)", "float[1,3,12,12]",
        8, 3, 3, 3, axis=1,
    ),
    "gemm": layer("t = Gemm <transB=1> (a, w, b)", "float[7,6]", 6, 20, source="float[7,20]", b=normal(6)),
    "gemm_beta": layer("t = Gemm <beta=0.5> (a, w, b)", "float[7,6]", 20, 6, axis=1, source="float[7,20]", b=normal(6)),
    "matmul": layer("m = MatMul (a, w) t = Add (m, b)", "float[1,12,6]", 10, 6, axis=1, source=ROWS, b=normal(6)),
    "flatten": layer(
        "f = Flatten (a) t = Gemm <transB=1> (f, w)", "float[1,5]", 5, 288, axis=0,
    ),
    "convolution_flatten": between(
        f"{dequantized('w')} {dequantized('v')} c = Conv <pads=[1,1,1,1]> (a, w) r = Relu (c) {qdq('r', 'q', 'q')} "
        "f = Flatten (q) t = Gemm <transB=1> (f, v)",
        IMAGE, "float[1,5]", **weights("w", 4, 8, 3, 3), **weights("v", 5, 144, seed=3), **grid("q", 0.02, 0),
    ),
}  # fmt: skip

MOVES = {
    "reshape": between("t = Reshape (a, n)", IMAGE, "float[4,72]", n=np.array([4, 72])),
    "transpose": between("t = Transpose <perm=[0,3,1,2]> (a)", IMAGE, "float[1,6,8,6]"),
    "merged_pixels": layer("c = Conv (a, w) t = Reshape (c, n)", "float[1,4,16]", 4, 8, 3, 3, n=np.array([1, 4, 16])),
    "split_pixels": layer("c = Conv (a, w) t = Reshape (c, n)", "float[2,2,2,8]", 4, 8, 3, 3, n=np.array([2, 2, 2, 8])),
    "tokens": layer(
        "c = Conv (a, w) f = Reshape (c, n) t = Transpose <perm=[0,2,1]> (f)", "float[1,16,4]", 4, 8, 3, 3,
        n=np.array([1, 4, -1]),
    ),
    "squeeze": between("u = Unsqueeze (a, n) t = Squeeze (u, n)", IMAGE, "float[1,8,6,6]", n=np.array([1])),
    "slice": between(
        "t = Slice (a, s, e, n, p)", IMAGE, "float[1,3,6,6]", s=np.array([1]), e=np.array([7]), n=np.array([1]),
        p=np.array([2]),
    ),
    "reverse": between(
        "t = Slice (a, s, e, n, p)", IMAGE, "float[1,8,6,6]", s=np.array([-1]), e=np.array([-100]), n=np.array([3]),
        p=np.array([-1]),
    ),
    "split": between("u, v = Split <axis=1, num_outputs=2> (a) t = Add (u, v)", IMAGE, "float[1,4,6,6]"),
    "gather": between("t = Gather <axis=1> (a, n)", IMAGE, "float[1,2,6,6]", n=np.array([3, -1])),
    "gather_one": between("t = Gather <axis=2> (a, n)", IMAGE, "float[1,8,6]", n=np.array(4)),
    "pad": between("t = Pad (a, n)", IMAGE, "float[1,8,9,6]", n=np.array([0, 0, 1, 0, 0, 0, 2, 0])),
    "reflect": between(
        't = Pad <mode="reflect"> (a, n)', IMAGE, "float[1,8,6,8]", n=np.array([0, 0, 0, 1, 0, 0, 0, 1])
    ),
    "tile": between("t = Tile (a, n)", IMAGE, "float[1,8,12,18]", n=np.array([1, 1, 2, 3])),
    "expand": between("t = Expand (a, n)", "float[1,8,1,1]", "float[1,8,3,2]", n=np.array([1, 8, 3, 2])),
    "depth_to_space": between("t = DepthToSpace <blocksize=2> (a)", IMAGE, "float[1,2,12,12]"),
    "pixel_shuffle": between('t = DepthToSpace <blocksize=2, mode="CRD"> (a)', IMAGE, "float[1,2,12,12]"),
    "space_to_depth": between("t = SpaceToDepth <blocksize=2> (a)", IMAGE, "float[1,32,3,3]"),
    "nearest": between('t = Resize <mode="nearest"> (a, , n)', IMAGE, "float[1,8,12,12]",
                       n=np.array([1, 1, 2, 2], np.float32)),
    "nearest_floor": between(
        't = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (a, , n)',
        IMAGE, "float[1,8,12,18]", n=np.array([1, 1, 2, 3], np.float32)),
    "nearest_ceil": between(
        't = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="ceil"> (a, , n)', IMAGE,
        "float[1,8,9,9]", n=np.array([1, 1, 1.5, 1.5], np.float32)),
}  # fmt: skip

POOLS = {
    "average": between("t = AveragePool <kernel_shape=[2,2], strides=[2,2]> (a)", IMAGE, "float[1,8,3,3]"),
    "average_pads": between(
        "t = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (a)", IMAGE, "float[1,8,6,6]"
    ),
    "average_1d": between("t = AveragePool <kernel_shape=[2], strides=[2]> (a)", ROWS, "float[1,12,5]"),
    "max_1d": between("t = MaxPool <kernel_shape=[3], pads=[1,1], strides=[2]> (a)", ROWS, "float[1,12,5]"),
    "global_average": between("t = GlobalAveragePool (a)", IMAGE, "float[1,8,1,1]"),
    "global_max": between("t = GlobalMaxPool (a)", IMAGE, "float[1,8,1,1]"),
    "mean": between("t = ReduceMean <keepdims=0> (a, n)", ROWS, "float[1,10]", n=np.array([1])),
    "sum": between("t = ReduceSum (a, n)", ROWS, "float[1,12,1]", n=np.array([2]), **grid("y", 0.2, 120)),
    "reduce_max": between("t = ReduceMax <keepdims=0> (a, n)", IMAGE, "float[1,8,6]", n=np.array([3])),
    "bilinear": between('t = Resize <mode="linear"> (a, , n)', IMAGE, "float[1,8,12,12]",
                        n=np.array([1, 1, 2, 2], np.float32)),
    "align_corners": between(
        't = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (a, , , n)', IMAGE,
        "float[1,8,11,11]", n=np.array([1, 8, 11, 11])),
}  # fmt: skip

PI = {"c": 1.7}
ELEMENTWISE = {
    **{
        op: between(f"t = {op} (a)", IMAGE, IMAGE)
        for op in ("Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Elu", "Softplus", "Mish", "Softsign", "Tanh",
                   "Erf", "Abs", "Neg", "Exp")
    },
    "Gelu": between("t = Gelu (a)", IMAGE, IMAGE),
    "gelu_tanh": between('t = Gelu <approximate="tanh"> (a)', IMAGE, IMAGE),
    "gelu_erf": between(
        "d = Div (a, r) e = Erf (d) o = Add (e, one) m = Mul (a, o) t = Mul (m, h)", IMAGE, IMAGE, r=np.sqrt(2).item(),
        one=1.0, h=0.5),
    "silu": between("s = Sigmoid (a) t = Mul (a, s)", IMAGE, IMAGE),
    "square": between("t = Pow (a, c)", IMAGE, IMAGE, c=2.0),
    "scaled": between("t = Mul (a, c)", IMAGE, IMAGE, **PI),
    "shifted": between("t = Sub (c, a)", IMAGE, IMAGE, **PI),
    "divided": between("t = Div (a, c)", IMAGE, IMAGE, **PI),
    "per_channel": between("m = Mul (a, c) t = Add (m, d)", IMAGE, IMAGE, c=normal(8, 1, 1), d=normal(8, 1, 1, seed=4)),
    "batch_norm": between(
        "t = BatchNormalization (a, g, b, m, v)", IMAGE, IMAGE, g=normal(8), b=normal(8, seed=2), m=normal(8, seed=3),
        v=np.abs(normal(8, seed=4)) + np.float32(0.5)),
    "zero_gamma": between(
        "t = BatchNormalization (a, g, b, m, v)", IMAGE, IMAGE, g=normal(8) * np.arange(8).astype(np.float32) % 2,
        b=normal(8, seed=2), m=normal(8, seed=3), v=np.abs(normal(8, seed=4)) + np.float32(0.5)),
    "position": between("t = Add (a, c)", ROWS, ROWS, c=normal(1, 12, 10)),
    "prelu": between("t = PRelu (a, c)", IMAGE, IMAGE, c=np.array([0.2], np.float32)),
}  # fmt: skip

PARTS = {
    name: model(
        f"({IMAGE} x, {other} z) => ({IMAGE} y)",
        f"{qdq('x', 'a', 'x')} {qdq('z', 'b', 'z')} t = {op} {qdq('t', 'y', 'y')}",
        **(grid("x", 0.024, 117) | grid("z", 0.013, 90) | grid("y", 0.031, 130)),
    )
    for name, op, other in (
        ("add", "Add (a, b)", IMAGE), ("sub", "Sub (a, b)", IMAGE), ("mul", "Mul (a, b)", IMAGE),
        ("min", "Min (a, b)", IMAGE), ("max", "Max (a, b)", IMAGE), ("gate", "Mul (a, b)", "float[1,8,1,1]"),
        ("rows", "Add (a, b)", "float[6]"), ("swapped", "Sub (b, a)", IMAGE),
    )
}  # fmt: skip

ALL = {**LAYERS, **MOVES, **POOLS, **ELEMENTWISE, **PARTS}


def feeds(net: onnx.ModelProto) -> dict[str, np.ndarray]:
    shapes = {one.name: [d.dim_value for d in one.type.tensor_type.shape.dim] for one in net.graph.input}
    return {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("name", ALL)
@BOTH
def test_operator(name: str, plain: bool) -> None:
    net = ALL[name]
    apart = steps_apart(net, feeds(net), plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() >= (0.95 if apart.size < 200 else 0.975)


@BOTH
def test_products_of_activations(plain: bool) -> None:
    for body, shape in (
        ("t = MatMul (a, b)", "float[2,6,10] x, float[2,10,5] z"),
        ("c = Transpose <perm=[0,2,1]> (b) t = MatMul (a, c)", "float[2,6,10] x, float[2,5,10] z"),
    ):
        net = model(
            f"({shape}) => (float[2,6,5] y)",
            f"{qdq('x', 'a', 'x')} {qdq('z', 'b', 'z')} {body} {qdq('t', 'y', 'y')}",
            **(grid("x", 0.024, 117) | grid("z", 0.013, 90) | grid("y", 0.06, 130)),
        )
        assert "TRANSPOSE" not in [kind for one in written(net).coverage for kind in one.operators]
        assert steps_apart(net, feeds(net), plain).max() <= 1


@BOTH
def test_residual_sums_without_a_range_are_16_bits(plain: bool) -> None:
    """An export without a fake-quant behind its sums: int16 over their bounds, convolutions of 16x8 behind them."""
    net = model(
        f"({IMAGE} x, {IMAGE} z) => (float[1,4,6,6] y)",
        f"{qdq('x', 'a', 'x')} {qdq('z', 'b', 'z')} s = Add (a, b) r = Relu (s) {dequantized('w')} "
        f"c = Conv <pads=[1,1,1,1]> (r, w) {qdq('c', 'y', 'y')}",
        **(grid("x", 0.024, 117) | grid("z", 0.013, 90) | grid("y", 0.06, 130) | weights("w", 4, 8, 3, 3)),
    )
    made = written(net)
    assert [(one.source, one.grid.dtype) for one in made.derived] == [("bounds", "int16")]
    assert {one.compute for one in made.coverage if one.op == "Conv"} == {"int16"}
    apart = steps_apart(net, feeds(net), plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.985


@BOTH
def test_activations_of_16_bits(plain: bool) -> None:
    net = model(
        f"({IMAGE} x) => (float[1,4,6,6] y)",
        f"{qdq('x', 'a', 'x')} {dequantized('w')} c = Conv <pads=[1,1,1,1]> (a, w, b) r = Relu (c) "
        f"{qdq('r', 'y', 'y')}",
        **(grid("x", 0.0001, 0, "int16") | grid("y", 0.0003, 0, "int16") | weights("w", 4, 8, 3, 3) | {"b": normal(4)}),
    )
    made = written(net)
    assert [info.dtype for info in (*made.inputs, *made.outputs)] == ["int16", "int16"]
    apart = steps_apart(net, feeds(net), plain)
    assert apart.max() <= 2  # the kernels' multiplier has 15 bits
    assert (apart <= 1).mean() > 0.99


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
@BOTH
def test_weights_with_a_zero_point_are_written_in_halves(op: str, plain: bool) -> None:
    shape, axis = ((4, 8, 3, 3), 0) if op == "Conv" else ((8, 5), 1)
    channels = shape[axis]
    rng = np.random.default_rng(1)
    zero = np.array([40, -77, 0, 101, -128][:channels], np.int8)
    integers = rng.integers(-128, 127, shape).astype(np.int8)
    scale = rng.uniform(0.002, 0.004, channels).astype(np.float32)
    constants: dict[str, Any] = {"w_i": integers, "sw": scale, "zw": zero}
    body = "c = Conv <pads=[1,0,1,1], strides=[2,1]> (a, w)" if op == "Conv" else "c = MatMul (a, w)"
    x, y = ("float[1,8,6,6] x", "float[1,4,3,5] y") if op == "Conv" else ("float[3,8] x", "float[3,5] y")
    net = model(
        f"({x}) => ({y})",
        f"{qdq('x', 'a', 'x')} w = DequantizeLinear <axis={axis}> (w_i, sw, zw) {body} {qdq('c', 'y', 'y')}",
        **(grid("x", 0.024, 117) | grid("y", 0.03, 120) | constants),
    )
    made = written(net)
    assert "CONCATENATION" in [kind for one in made.coverage for kind in one.operators]
    assert [one.compute for one in made.coverage if one.op == op] == ["int8"]
    assert steps_apart(net, feeds(net), plain).max() <= 1


@BOTH
def test_a_layer_of_two_grids_is_written_twice(plain: bool) -> None:
    net = model(
        f"({IMAGE} x) => (float[1,4,6,6] y, float[1,4,6,6] v)",
        f"{qdq('x', 'a', 'x')} {dequantized('w')} c = Conv <pads=[1,1,1,1]> (a, w) r = Relu (c) "
        f"{qdq('r', 'y', 'y')} {qdq('r', 'v', 'v')}",
        **(grid("x", 0.024, 117) | grid("y", 0.03, 0) | grid("v", 0.021, 0) | weights("w", 4, 8, 3, 3)),
    )
    made = written(net)
    assert [kind for one in made.coverage for kind in one.operators].count("CONV_2D") == 2
    assert len(made.content) < 2 * len(written(net, edges="float32").content)
    assert steps_apart(net, feeds(net), plain).max() <= 1


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@BOTH
def test_recurrent_layers_are_unrolled(op: str, plain: bool) -> None:
    gates, steps, size = (4 if op == "LSTM" else 3), 3, 5
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"b": rng.normal(0, 0.2, (1, 2 * gates * size)).astype(np.float32)}
    for name, columns in (("w", 6), ("r", size)):
        constants[f"{name}_i"] = rng.integers(-127, 128, (1, gates * size, columns)).astype(np.int8)
        constants[f"s{name}"] = np.float32(0.004)
        constants[f"z{name}"] = np.int8(0)
    net = model(
        f"(float[{steps},1,6] x) => (float[{steps},1,1,{size}] y)",
        f"{qdq('x', 'a', 'x')} w = DequantizeLinear (w_i, sw, zw) r = DequantizeLinear (r_i, sr, zr) "
        f"h = {op} <hidden_size={size}> (a, w, r, b) {qdq('h', 'y', 'y')}",
        **constants, **grid("x", 0.02, 128), **grid("y", 0.008, 128),
    )  # fmt: skip
    apart = steps_apart(net, feeds(net), plain)
    assert apart.max() <= 1


@pytest.mark.parametrize(("op", "keep"), [("ArgMax", 1), ("ArgMax", 0), ("ArgMin", 0)])
@BOTH
def test_positions_are_the_reals_own(op: str, keep: int, plain: bool) -> None:
    shape = "int64[5,1]" if keep else "int64[5]"
    net = model(
        f"(float[5,10] x) => ({shape} y)",
        f"{qdq('x', 'a', 'x')} y = {op} <axis=1, keepdims={keep}> (a)",
        **grid("x", 0.01, 128),
    )
    x = feeds(net)
    found = WrittenNetwork(written(net), plain=plain).run(x)["y"]
    assert found.dtype == np.int64
    assert np.array_equal(found, Reference(net, "test").run(x)["y"])


@BOTH
def test_positions_are_cast_and_copied(plain: bool) -> None:
    """LiteRT reshapes 8 bytes an element into whatever the file says, also beyond its end."""
    net = model(
        "(float[5,10] x) => (int64[5,1] y, int64[5,1] z, float[5,10] s)",
        f"{qdq('x', 'a', 'x')} y = ArgMax <axis=1> (a) z = Identity (y) r = Cast <to=1> (y) s = Add (a, r)",
        **grid("x", 0.01, 128),
    )
    x = feeds(net)
    found = WrittenNetwork(written(net, allow_float=True, edges="float32"), plain=plain).run(x)
    for name, wanted in Reference(net, "test").run(x).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)


def test_tokens_of_an_image_are_not_transposed() -> None:
    """(N, C, H, W) to (N, H*W, C), as vision transformers have it: channels are last in the file already."""
    kinds = [kind for one in written(MOVES["tokens"]).coverage for kind in one.operators]
    assert kinds.count("TRANSPOSE") == 1  # at the input
