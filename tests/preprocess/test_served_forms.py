"""Operators without a kernel of their own become ones that have it: same numbers, integer weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.preprocess.building import fold, model, normal, ops, weights_of

GRID = {"s": np.float32(0.02), "z": np.uint8(100)}


def network(inputs: str, result: str, text: str, *, opset: int = 17) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]>\nnet (float[{inputs}] x) => (float[{result}] y)\n'
        f"{{\n q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n{text}\n}}"
    )


def weights(*shape: int, axis: int | None = None) -> dict[str, object]:
    """int8 `w` with one scale, or one along `axis`."""
    channels = () if axis is None else (shape[axis],)
    return {
        "w": np.random.default_rng(2).integers(-127, 128, shape).astype(np.int8),
        "ws": np.asarray(np.abs(normal(*channels)) * 0.02 + 0.001, np.float32), "wz": np.zeros(channels, np.int8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("equation", "inputs", "shape", "axis", "result"),
    [
        ("bld,od->blo", "1,5,8", (6, 8), 0, "1,5,6"),
        ("bld,do->blo", "1,5,8", (8, 6), 1, "1,5,6"),
        ("...d,do->...o", "2,3,5,8", (8, 6), 1, "2,3,5,6"),
        ("nchw,oc->nohw", "1,8,3,4", (6, 8), 0, "1,6,3,4"),
        ("bld,dhk->bhlk", "1,5,8", (8, 2, 3), None, "1,2,5,3"),
        ("bhlk,hkd->bld", "1,2,5,3", (2, 3, 8), None, "1,5,8"),
    ],
)
def test_einsum_with_weights(equation: str, inputs: str, shape: tuple[int, ...], axis: int | None, result: str) -> None:
    channel = "" if axis is None else f"<axis = {axis}>"
    text = f'f = DequantizeLinear {channel} (w, ws, wz)\n y = Einsum <equation = "{equation}"> (d, f)'
    made = fold(model(network(inputs, result, text), **GRID, **weights(*shape, axis=axis)), rtol=1e-6).model
    assert "Einsum" not in ops(made)
    assert weights_of(made, "MatMul")[0].ndim == 2


def test_einsum_that_does_not_spell_its_result() -> None:
    text = 'f = DequantizeLinear (w, ws, wz)\n y = Einsum <equation = "bj,jc"> (d, f)'
    made = fold(model(network("5,8", "5,6", text), **GRID, **weights(8, 6)), rtol=1e-6).model
    assert weights_of(made, "MatMul")[0].shape == (8, 6)


def test_a_vector_of_weights() -> None:
    text = "f = DequantizeLinear (w, ws, wz)\n y = MatMul (d, f)"
    made = fold(model(network("2,5,8", "2,5", text), **GRID, **weights(8)), rtol=1e-6).model
    assert weights_of(made, "MatMul")[0].shape == (8, 1)


def test_einsum_with_weights_in_front() -> None:
    text = 'f = DequantizeLinear <axis = 0> (w, ws, wz)\n y = Einsum <equation = "od,bld->blo"> (f, d)'
    made = fold(model(network("1,5,8", "1,5,6", text), **GRID, **weights(6, 8, axis=0)), rtol=1e-6).model
    assert weights_of(made, "MatMul")[1].shape == (6,)


@pytest.mark.parametrize("equation", ["bhqd,bhkd->bhqk", "b h q d, b h k d -> b h q k"])
def test_einsum_of_two_activations(equation: str) -> None:
    text = f'y = Einsum <equation = "{equation}"> (d, d)'
    assert ops(fold(model(network("1,2,5,4", "1,2,5,5", text), **GRID), rtol=1e-6).model)["MatMul"] == 1


@pytest.mark.parametrize(("equation", "result"), [("bld,bld->bld", "1,5,8"), ("bll->bl", "1,5")])
def test_other_sums_stay(equation: str, result: str) -> None:
    inputs = "1,5,8" if "," in equation else "1,5,5"
    text = f'y = Einsum <equation = "{equation}"> ({"d, d" if "," in equation else "d"})'
    assert ops(fold(model(network(inputs, result, text), **GRID), rtol=1e-6).model)["Einsum"] == 1


@pytest.mark.parametrize("axis", [None, 0])
def test_weights_on_the_left(axis: int | None) -> None:
    text = f"f = DequantizeLinear {'' if axis is None else '<axis = 0>'} (w, ws, wz)\n y = MatMul (f, d)"
    made = fold(model(network("2,8,5", "2,6,5", text), **GRID, **weights(6, 8, axis=axis)), rtol=1e-6).model
    assert weights_of(made, "MatMul")[0].shape == (8, 6)


@pytest.mark.parametrize(
    ("attributes", "inputs", "shape", "bias"),
    [
        ("", "8,5", (6, 8), (6, 1)),
        ("<transB = 1, alpha = 0.5>", "5,8", (6, 8), (6, 1)),
        ("<transA = 1, beta = 2.0>", "8,5", (8, 6), (5,)),
        ("", "8,5", (6, 8), (6, 5)),
        ("", "8,5", (6, 8), None),
    ],
)
def test_gemm_with_weights_on_the_left(
    attributes: str, inputs: str, shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> None:
    text = f"f = DequantizeLinear (w, ws, wz)\n y = Gemm {attributes} (f, d{'' if bias is None else ', b'})"
    constants = {} if bias is None else {"b": normal(*bias)}
    made = fold(model(network(inputs, "6,5", text), **GRID, **weights(*shape), **constants), rtol=1e-6).model
    assert sorted(weights_of(made, "Gemm")[0].shape) == [6, 8]


@pytest.mark.parametrize(
    ("product", "inputs", "shape", "axis", "result"),
    [
        ("MatMul (d, f)", "3,5,8", (3, 8, 6), None, "3,5,6"),
        ("MatMul (d, f)", "2,2,5,8", (2, 2, 8, 6), 3, "2,2,5,6"),
        ("MatMul (d, f)", "3,5,8", (3, 8, 6), 0, "3,5,6"),
        ("MatMul (f, d)", "3,8,5", (3, 6, 8), 1, "3,6,5"),
        ("MatMul (d, f)", "1,5,8", (3, 8, 6), 2, "3,5,6"),
        ("MatMul (f, d)", "8,5", (2, 3, 6, 8), 2, "2,3,6,5"),
    ],
)
def test_many_matrices_of_weights(
    product: str, inputs: str, shape: tuple[int, ...], axis: int | None, result: str
) -> None:
    """A group of a convolution each, or side by side: one DequantizeLinear of int8 weights per output channel."""
    channel = "" if axis is None else f"<axis = {axis}>"
    text = f"f = DequantizeLinear {channel} (w, ws, wz)\n y = {product}"
    made = fold(model(network(inputs, result, text), **GRID, **weights(*shape, axis=axis)), rtol=1e-6).model
    layer = next(one for one in ("Conv", "MatMul") if ops(made)[one])
    values, scale, _ = weights_of(made, layer)
    assert values.size == np.prod(shape)
    assert scale.shape in ((), (values.shape[0 if layer == "Conv" else 1],))


@pytest.mark.parametrize(("product", "inputs", "shape"), [("(d, f)", "8", (8, 6)), ("(f, d)", "8,6", (8,))])
def test_vectors(product: str, inputs: str, shape: tuple[int, ...]) -> None:
    text = f"f = DequantizeLinear (w, ws, wz)\n y = MatMul {product}"
    made = fold(model(network(inputs, "6", text), **GRID, **weights(*shape)), rtol=1e-6).model
    assert all(len(one.shape) == 2 for one in weights_of(made, "MatMul")[:1])


@pytest.mark.parametrize(
    ("attributes", "operands", "found"),
    [
        ("<alpha = 0.5, transB = 1>", "d, d, b", {"Gemm": 1, "Mul": 1, "Add": 1}),
        ("<transB = 1>", "d, d", {"Gemm": 1}),
        ("<alpha = 0.5, beta = 2.0, transB = 1>", "d, f, c", {"Gemm": 1, "Add": 1}),
    ],
)
def test_gemm_with_summands_that_are_no_bias(attributes: str, operands: str, found: dict[str, int]) -> None:
    text = f"f = DequantizeLinear <axis = 0> (w, ws, wz)\n y = Gemm {attributes} ({operands})"
    constants = {**weights(5, 8, axis=0), "b": normal(5), "c": normal(5, 5)}
    used = {name: value for name, value in constants.items() if name in operands or name.startswith("w")}
    made = fold(model(network("5,8", "5,5", text), **GRID, **used), rtol=1e-6).model
    assert {op: count for op, count in ops(made).items() if "Linear" not in op} == found


def test_einsum_of_three() -> None:
    text = 'f = DequantizeLinear <axis = 1> (w, ws, wz)\n y = Einsum <equation = "bd,do,bl->bo"> (d, f, d)'
    made = fold(model(network("4,8", "4,6", text), **GRID, **weights(8, 6, axis=1)), rtol=1e-6).model
    assert weights_of(made, "MatMul")[0].shape == (8, 6)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize("whole", [True, False])
def test_sequences_backwards(axes: tuple[int, int], whole: bool) -> None:
    time, batch = axes
    shape = (3, 4, 5)
    lengths = [shape[time]] * shape[batch] if whole else [1, 3, 2, 0][: shape[batch]]
    text = f"y = ReverseSequence <time_axis = {time}, batch_axis = {batch}> (d, lengths)"
    made = fold(model(network("3,4,5", "3,4,5", text), **GRID, lengths=np.array(lengths, np.int64))).model
    assert ops(made)["Slice" if whole else "Gather"] == 1


@pytest.mark.parametrize("attributes", ["", "<p = 1>", "<axis = 1>"])
def test_lp_normalization(attributes: str) -> None:
    made = fold(model(network("2,4,6", "2,4,6", f"y = LpNormalization {attributes} (d)"), **GRID), rtol=1e-6).model
    assert "LpNormalization" not in ops(made)


def test_lp_normalization_of_zeros() -> None:
    text = "k = Mul (d, nothing)\n n = LpNormalization (k)\n y = Add (n, one)"
    fold(model(network("2,4,6", "2,4,6", text), **GRID, nothing=np.float32(0), one=np.float32(1)), rtol=1e-6)


@pytest.mark.parametrize(("opset", "scales"), [(18, 2), (21, 8)])
def test_group_normalization(opset: int, scales: int) -> None:
    """onnx infers no shape behind it, and below opset 21 each group has one scale."""
    text = "n = GroupNormalization <num_groups = 2> (d, g, b)\n p = Reshape (n, flat)\n y = Relu (p)"
    constants = {**GRID, "g": normal(scales), "b": normal(scales), "flat": np.array([1, -1], np.int64)}
    source = onnx.parser.parse_model(network("1,8,3,4", "1,96", text, opset=opset))  # deprecated in 18: no checker
    source.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    made = fold(source, rtol=1e-5).model
    assert ops(made)["InstanceNormalization"] == 1


@pytest.mark.parametrize("others", ["d, empty", "empty, d, d"])
def test_tensors_without_elements(others: str) -> None:
    text = f"c = Concat <axis = 1> ({others})\n y = Relu (c)"
    columns = 6 * others.count("d")
    made = fold(model(network("2,6", f"2,{columns}", text), **GRID, empty=np.zeros((2, 0), np.float32))).model
    assert ops(made)["Concat"] == others.count("d") - 1
