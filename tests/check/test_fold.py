"""The fold, source against canonical graph: a right one is certified, a wrong one is named, however small the fault."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.check.certificate import Certificate
from drpai_qat.check.fold import FoldCheck, find_twins, with_constants_rounded
from drpai_qat.check.layers import cut_at_quantizers, reference_run
from drpai_qat.data.samples import make_samples
from drpai_qat.runtimes.exact import ExactNetwork
from preprocess import preprocess
from tests.lowering.running import grid, model, qdq
from tests.small_models import qdq_model


def certificates(source: onnx.ModelProto, canonical: onnx.ModelProto) -> tuple[Certificate, ...]:
    cut = cut_at_quantizers(canonical)
    reference, check, exact = (
        reference_run(canonical, cut, "canonical"),
        FoldCheck(source, canonical),
        ExactNetwork(canonical),
    )
    for sample in make_samples(canonical, 2, 0):
        integers = reference(sample)
        given = {name: integers[name] for name in cut.tensors}
        check.add(sample, integers, exact.walk(sample, given, given))
    return check.certificates()


def changed(canonical: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(canonical)
    (tensor,) = (one for one in result.graph.initializer if one.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    return result


@pytest.fixture
def source():
    return qdq_model()


@pytest.fixture
def canonical(source):
    return preprocess(source, "pytorch").model


def weights_of(canonical: onnx.ModelProto) -> str:
    (name,) = (tensor.name for tensor in canonical.graph.initializer if len(tensor.dims) == 4)
    return name


def test_a_right_fold_is_certified(source, canonical):
    found = certificates(source, canonical)
    assert len(found) == 3
    assert all(one.certified for one in found)
    assert not any(one.unequal for one in found)


def test_one_weight_off_by_one_is_named(source, canonical):
    def off_by_one(weights):
        weights[2, 1, 0, 2] -= 1
        return weights

    found = certificates(source, changed(canonical, weights_of(canonical), off_by_one))
    assert [one.certified for one in found] == [True, False, True]
    assert "Relu" in found[1].node


def test_a_lost_rounding_is_named():
    """The source rounds to halves in between; a canonical graph without that is wrong where it matters."""
    constants = {**grid("x", 0.1, 0), **grid("h", 0.5, 0), **grid("y", 0.2, 0)}
    source = model(
        "(float[1,64] x) => (float[1,64] y)", qdq("x", "a", "x") + qdq("a", "h") + qdq("h", "y"), **constants
    )
    right = model(
        "(float[1,64] x) => (float[1,64] y)", qdq("x", "a", "x") + qdq("a", "k", "h") + qdq("k", "y"), **constants
    )
    wrong = model("(float[1,64] x) => (float[1,64] y)", qdq("x", "a", "x") + qdq("a", "y"), **constants)
    assert all(one.certified for one in certificates(source, right))
    found = certificates(source, wrong)
    assert [one.certified for one in found] == [True, False]


def test_a_fault_behind_the_last_grid_is_named():
    constants = {**grid("a", 0.1, 0), "k": 1.5}
    source = model("(float[1,64] x) => (float[1,64] y)", qdq("x", "a") + "y = Mul(a, k)", **constants)
    wrong = changed(source, "k", lambda k: np.float32(k * (1 + 1e-5)))
    assert [one.certified for one in certificates(source, source)] == [True, True]
    assert [one.certified for one in certificates(source, wrong)] == [True, False]


@pytest.mark.parametrize(("more", "verdict"), [(0.0, "equal"), (2.0**-23, "1 tie"), (2.0**-10, "1 wrong")])
def test_classes_are_compared_by_their_scores(more, verdict):
    body = qdq("x", "a") + "b = Mul(a, k)\n y = ArgMax<axis=1, keepdims=0>(b)"
    source = model("(float[1,4] x) => (int64[1] y)", body, k=np.ones(4, np.float32), **grid("a", 1.0, 0))
    folded = changed(source, "k", lambda k: k + np.array([0, 0, more, 0], np.float32))
    sample, integers = {"x": np.array([[1, 7, 7, 2]], np.float32)}, {"q_a": np.array([[1, 7, 7, 2]], np.uint8)}
    check = FoldCheck(source, folded)
    check.add(sample, integers, ExactNetwork(folded).walk(sample, integers, {"q_a", "b"}))
    assert [one.verdict for one in check.certificates()] == ["equal", verdict]


def test_names_that_are_gone_make_larger_pieces(source, canonical):
    """Without its twin, an activation is not compared itself; what follows is, and a fault there is found."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(canonical)
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "other" if name == "dr" else name
    assert len(find_twins(source, renamed)) == 2
    assert not FoldCheck(source, renamed).shares_layers
    assert all(one.certified for one in certificates(source, renamed))
    wrong = changed(renamed, weights_of(renamed), lambda weights: -weights)
    assert not all(one.certified for one in certificates(source, wrong))


def test_weights_are_rounded_as_the_file_does(source):
    """w / s in float32 may round to another integer than in float64: the trained one is that of float32."""
    scale = np.float32(0.1)
    near = [np.nextafter(np.float32(k + 0.5) * scale, np.float32(9), dtype=np.float32) for k in range(50)]
    near += [np.nextafter(np.float32(k + 0.5) * scale, np.float32(0), dtype=np.float32) for k in range(50)]
    weights = np.array(near, np.float32)
    exact = np.rint(weights.astype(np.float64) / np.float64(scale))
    float32 = np.rint(weights / scale)
    assert (exact != float32).any()
    text = "q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = Mul(x, d)"
    constants = {"w": weights, "s": scale, "z": np.int8(0)}
    rounded = with_constants_rounded(model("(float[100] x) => (float[100] y)", text, **constants))
    assert [node.op_type for node in rounded.graph.node] == ["DequantizeLinear", "Mul"]
    found = ExactNetwork(rounded).run({"x": np.ones(100, np.float32)})["y"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(np.rint(found / np.float64(scale)), float32)


def test_what_can_not_be_evaluated_is_not_certified():
    body = qdq("x", "a") + "p = LpPool<kernel_shape=[3,3]>(a)\n" + qdq("p", "y")
    source = model("(float[1,1,4,4] x) => (float[1,1,2,2] y)", body, **grid("a", 1.0, 0), **grid("y", 1.0, 0))
    found = certificates(source, source)
    assert [one.certified for one in found] == [True, False]
    assert "LpPool" in found[1].missing
