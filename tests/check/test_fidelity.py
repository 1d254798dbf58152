"""The verdict: outputs against thresholds, and what certificates make of those that are missed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from drpai_qat.check import fidelity
from drpai_qat.check.certificate import Certificate
from drpai_qat.check.fidelity import CheckResult, certify, check_outputs, first_uncertified
from drpai_qat.check.layers import RunOnce, assembled, cut_at_quantizers
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.errors import ModelError
from drpai_qat.data.samples import make_samples
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess import preprocess
from tests.lowering.running import grid, model, qdq
from tests.small_models import qdq_model


@pytest.fixture
def source():
    return qdq_model()


@pytest.fixture
def canonical(source):
    return preprocess(source, "pytorch").model


def scaled_weights(model, factor):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type == "DequantizeLinear":
            for tensor in changed.graph.initializer:
                if tensor.name == node.input[1] and tensor.dims:
                    tensor.CopyFrom(
                        onnx.numpy_helper.from_array(
                            onnx.numpy_helper.to_array(tensor) * np.float32(factor), tensor.name
                        )
                    )
    return changed


def test_fold_and_deployment_are_told_apart(source, canonical):
    samples = make_samples(canonical, 2, 0)
    wrong = Reference(scaled_weights(canonical, 1.5), "wrong")
    result = check_outputs(
        Reference(source, "source"), Reference(canonical, "folded"), wrong.run, {}, samples, Thresholds()
    )
    assert not result.passed
    assert "SQNR" in result.shortfalls[0]
    assert result.fold[0].sqnr_db > 40
    assert result.outputs[0].sqnr_db < 30


def checked(source, canonical, deployed, pieces, samples, thresholds=None) -> CheckResult:
    """The whole check of a network that is `deployed`, and cut becomes `pieces`."""
    result = check_outputs(
        Reference(source, "source"), Reference(canonical, "folded"), deployed, {}, samples, thresholds or Thresholds()
    )
    return certify(result, source, Reference(source, "source").run, canonical, deployed, lambda cut: pieces, samples)


def test_a_wrong_layer_is_named(source, canonical):
    wrong = scaled_weights(canonical, 1.5)
    result = checked(
        source,
        canonical,
        Reference(wrong, "wrong").run,
        Reference(cut_at_quantizers(wrong).model, "wrong").run,
        make_samples(canonical, 1, 0),
    )
    assert not result.passed
    assert result.uncertified.startswith("not certified, first at")
    assert "Relu" in result.uncertified


def test_a_wrong_fold_is_named(source, canonical):
    """The deployed network computes exactly what a wrong fold says."""
    wrong = scaled_weights(canonical, 1.5)
    run, pieces = Reference(wrong, "wrong").run, Reference(cut_at_quantizers(wrong).model, "wrong").run
    result = checked(source, wrong, run, pieces, make_samples(canonical, 1, 0))
    assert not result.passed
    assert result.uncertified.startswith("the fold is not certified, first at")


AMPLIFIES = model(
    "(float[1,8] x) => (float[1,8] y)",
    qdq("x", "a") + "b = Mul(a, g)\n c = Sub(b, o)\n" + qdq("c", "y"),
    g=40.0, o=3 * 40.0, **grid("a", 1.0, 0), **grid("y", 1.0, 128),
)  # fmt: skip
"""A step at `a` is forty at `y`."""

ON_BOUNDARIES = {"x": np.array([[0.1, 2.5, 3.2, 5.5, 1.3, 4.1, 5.2, 0.5]], np.float32)}


def rounds_up(feeds):
    """The pieces of `AMPLIFIES`, ties at `a` rounded up instead of to the even neighbour."""
    found = Reference(cut_at_quantizers(AMPLIFIES).model, "cut").run(feeds)
    return {**found, "q_a": np.floor(feeds["x"] + np.float32(0.5)).astype(np.uint8)}


def whole(pieces):
    """The deployed network made of these pieces."""
    cut = cut_at_quantizers(AMPLIFIES)
    return lambda sample: {"y": assembled(pieces, cut, sample, {"q_a": np.zeros((1, 8), np.uint8),
                                                                "q_y": np.zeros((1, 8), np.uint8)})["y"]}  # fmt: skip


def test_ties_that_the_network_amplifies_are_no_fault():
    result = checked(AMPLIFIES, AMPLIFIES, whole(rounds_up), rounds_up, [ON_BOUNDARIES])
    assert result.outputs[0].max_error == 40
    assert result.shortfalls
    assert result.passed
    assert result.uncertified == ""
    assert "2 ties" in result.amplified
    assert "amplifies single roundings" in result.amplified
    assert f"{result.outputs[0].sqnr_db:.1f} dB against itself in exact" in result.amplified
    content = result.to_json()
    assert content["passed"] is True
    assert [one["verdict"] for one in content["layers"]] == ["2 ties", "equal", "equal"]


def test_a_network_that_is_not_its_layers_fails():
    """Each layer is right, and yet something goes wrong between them."""
    right = Reference(cut_at_quantizers(AMPLIFIES).model, "cut").run
    result = checked(
        AMPLIFIES, AMPLIFIES, lambda sample: {"y": np.full((1, 8), 40, np.float32)}, right, [ON_BOUNDARIES]
    )
    assert not result.passed
    assert "than its layers put together" in result.uncertified


def test_the_end_of_a_network_may_sum_in_another_order():
    """In float32, within the bound of its certificate; integers, and what is not finite, are the same or not."""
    y = np.linspace(-3, 3, 100, dtype=np.float32)
    assert fidelity._same(y, y + np.float32(1e-7), bound=1e-4)
    assert not fidelity._same(y, y + np.float32(1e-5), bound=1e-4)
    assert not fidelity._same(y, np.where(y > 2.9, np.nan, y), bound=1e-4)
    assert fidelity._same(np.where(y > 2.9, np.nan, y), np.where(y > 2.9, np.nan, y), bound=1e-4)
    assert not fidelity._same(np.arange(9), np.arange(9) + 1, bound=1e-4)


def test_outputs_that_meet_the_thresholds_pass_whatever_the_layers(source, canonical):
    """What is not certified is told all the same."""
    run = Reference(canonical, "folded").run
    pieces = Reference(cut_at_quantizers(scaled_weights(canonical, 1.5)).model, "wrong").run
    result = checked(source, canonical, run, pieces, make_samples(canonical, 1, 0))
    assert result.passed
    assert result.uncertified


def always(**outputs: NDArray) -> RunOnce:
    return lambda feeds: outputs


def test_integer_outputs_must_be_equal():
    body = qdq("x", "a") + "y = ArgMax<axis=1, keepdims=0>(a)"
    source = model("(float[1,8] x) => (int64[1] y)", body, **grid("a", 1.0, 0))
    reference = Reference(source, "source")
    (sample,) = make_samples(source, 1, 0)
    right = reference.run(sample)["y"]
    for turned, shortfalls in ((0, ()), (1, ("y: 1 of 1 integers differ",))):
        result = check_outputs(reference, reference, always(y=(right + turned) % 8), {}, [sample], Thresholds())
        assert result.shortfalls == shortfalls


def test_the_first_that_is_not_certified_is_named():
    layers = [
        Certificate("a", "Conv one", count=1000),
        Certificate("b", "Add two", count=1000, unequal=7, wrong=5, max_lsb=9, distance=8.5),
        Certificate("c", "Foo three", missing="Foo is not evaluated"),
    ]
    text = first_uncertified(layers, layers[:1])
    assert "b (Add two)" in text
    assert "5 of 1000" in text
    assert "9 LSB" in text
    assert "Foo is not evaluated" in first_uncertified(layers[::2], ())
    assert "fold" in first_uncertified(layers, layers)
    assert first_uncertified(layers[:1], layers[:1]) == ""


def test_a_network_without_quantizers_has_its_outputs_compared():
    source = model("(float[1,8] x) => (float[1,8] y)", "y = Relu(x)")
    run = Reference(source, "source").run
    result = checked(source, source, run, run, make_samples(source, 1, 0))
    assert [one.tensor for one in result.layers or ()] == ["y"]
    assert result.uncertified == ""


def test_onnxruntime_refusals_are_one_line(source):
    source.graph.node[3].op_type = "Unheard"
    with pytest.raises(ModelError, match=r"^m\.onnx: onnxruntime can't load it: .*Unheard") as caught:
        Reference(source, "m.onnx")
    assert "\n" not in str(caught.value)


def test_a_feed_of_the_wrong_shape_is_one_line(source):
    with pytest.raises(ModelError, match="onnxruntime can't run it"):
        Reference(source, "m.onnx").run({"x": np.zeros((1, 4, 8, 8), np.float32)})
