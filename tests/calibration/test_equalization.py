"""Channels scaled so that the network computes the same, where that makes it more exact in 8 bits."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import preprocess
from drpai_qat.calibration import scaling
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.equalization import equalize
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.compare.layers import LayerComparison
from drpai_qat.compare.matching import match
from drpai_qat.compare.onnx_side import OnnxSide
from drpai_qat.core.progress import Silent
from drpai_qat.core.sqnr import sqnr_db
from drpai_qat.graph.scaled_channels import ScaledChannels
from tests.calibration.float_models import attention, frames, make, residual
from tests.reference import reference

BLOCK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,12,12] x) => (float[1,6,12,12] y)
<float zero = {0}, float six = {6}>
{
  c1 = Conv <kernel_shape=[1,1]> (x, w1, bias1)
  r1 = Clip (c1, zero, six)
  c2 = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=12> (r1, w2, bias2)
  r2 = Relu (c2)
  y = Conv <kernel_shape=[1,1]> (r2, w3, bias3)
}
"""
OTHERS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] read_outside)
<float[1,4,1,1] shift = {1, 2, 3, 4}>
{
  read_outside = Conv <kernel_shape=[1,1]> (x, w1)
  read_by_a_curve = Conv <kernel_shape=[1,1]> (read_outside, w2, bias2)
  s = Sigmoid (read_by_a_curve)
  joined = Conv <kernel_shape=[1,1], group=2> (read_by_a_curve, w3)
  shifted = Add (shift, joined)
  up = ConvTranspose <kernel_shape=[1,1]> (shifted, w4)
  sum = Add (up, s)
  p = PRelu (sum, slope)
  y = Conv <kernel_shape=[1,1]> (p, w5)
}
"""


def folded(model):
    return preprocess.preprocess(model, may_be_float=True).model


def block(unlike):
    """Expansion, ReLU6, depthwise layer, projection; a channel's range differs from others by 10^-unlike at most."""
    model = make(
        BLOCK, w1=(12, 3, 1, 1), bias1=(12,), w2=(12, 1, 3, 3), bias2=(12,), w3=(6, 12, 1, 1), bias3=(6,)
    )  # fmt: skip
    factor = 10 ** np.linspace(-unlike, 0, 12).astype(np.float32)
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, scale in (("w1", factor), ("bias1", factor), ("w2", 1 / factor)):
        values = np.frombuffer(by_name[name].raw_data, np.float32).reshape(by_name[name].dims)
        by_name[name].raw_data = (values * scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32).tobytes()
    return model


def others():
    """Tensors that can't be scaled among some that can; groups of channels, a constant sum, a transposed layer."""
    return make(
        OTHERS, w1=(4, 4, 1, 1), w2=(4, 4, 1, 1), bias2=(4,), w3=(4, 2, 1, 1), w4=(4, 4, 1, 1), slope=(4, 1, 1),
        w5=(4, 4, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "multiplies", "wanted"),
    [
        (residual, True, ["a3 b1 c3 p3 r1 r3", "m2*"]),
        (residual, False, ["a3 b1 c3 p3 r1 r3"]),
        (attention, True, ["n"]),
        (lambda: block(1), True, ["r1*", "c2 r2"]),
        (lambda: block(1), False, ["c2 r2"]),
        (others, True, ["shifted", "p s* sum up"]),
        (others, False, ["shifted"]),
    ],
)
def test_any_scale_leaves_the_function_as_it_is(network, multiplies, wanted):
    model = folded(network())
    graph = gs.import_onnx(model)
    groups = scaling.find_groups(graph, multiplies=multiplies)
    behind_a_mul = [[f"{name}*" if name in one.multiplied else name for name in sorted(one.tensors)] for one in groups]
    assert [" ".join(names) for names in behind_a_mul] == wanted
    same_function(model, multiplies)


def same_function(model, multiplies):
    """Scale whatever can be, by anything."""
    graph, generator = gs.import_onnx(model), np.random.default_rng(1)
    groups = scaling.find_groups(graph, multiplies=multiplies)
    scaling.apply(graph, [(one, (10 ** generator.uniform(-1, 1, one.channels)).astype(np.float32)) for one in groups])
    scaled = gs.export_onnx(graph, do_type_check=False)
    assert [one.name for one in scaled.graph.output] == [one.name for one in model.graph.output]
    for frame in frames(model, 3):
        for one, other in zip(reference(scaled, frame), reference(model, frame), strict=True):
            assert sqnr_db(one, other) > 100


@st.composite
def networks(draw):
    """Layers, curves, sums and paddings of four channels, each of tensors in front of it; 1 to 60 nodes."""
    known, lines = ["x"], []
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(draw(st.integers(1, 60))):
        one, other = draw(st.sampled_from(known[-4:])), draw(st.sampled_from(known[-4:]))
        shapes |= {f"w{index}": (4, 4, 1, 1), f"slope{index}": (4, 1, 1)}
        forms = {
            "layer": f"Conv <kernel_shape=[1,1]> ({one}, w{index})", "sum": f"Add ({one}, {other})",
            "prelu": f"PRelu ({one}, slope{index})", "curve": f"Sigmoid ({one})", "relu": f"Relu ({one})",
            "pool": f"MaxPool <kernel_shape=[2,2], pads=[0,0,1,1]> ({one})", "moved": f"Pad ({one}, none)",
        }  # fmt: skip
        kinds = ["layer", "layer", "sum", "sum", "prelu", "relu", "curve", "pool", "moved"]
        lines.append(f"t{index} = {forms[draw(st.sampled_from(kinds))]}")
        known.append(f"t{index}")
    head = '<ir_version: 8, opset_import: ["" : 17]>\nnet (float[1,4,4,4] x) => (float[1,4,4,4] y)\n'
    body = "\n".join([*lines, f"y = Conv <kernel_shape=[1,1]> ({known[-1]}, last)"])
    return make(head + "<int64[8] none = {0, 0, 0, 0, 0, 0, 0, 0}>\n{\n" + body + "\n}", last=(4, 4, 1, 1), **shapes)


@given(networks(), st.integers(2, 48))
def test_a_scale_is_applied_once(network, most):
    model = folded(network)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scaling, "_MOST_TENSORS", most)
        same_function(model, multiplies=True)


def test_empty_tensors_are_left_alone():
    model = make(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,8,4] x) => (float[1,0,4] y)
        <int64[1] at = {8}, int64[1] end = {9}, int64[1] axis = {1}> {
          s = Slice (x, at, end, axis) c = MatMul (s, w1) r = Relu (c) y = MatMul (r, w2)
        }""",
        w1=(4, 4), w2=(4, 4),
    )  # fmt: skip
    assert not scaling.find_groups(gs.import_onnx(folded(model)), multiplies=True)


def quantized(model, recipe):
    data, samples = frames(model, 24), frames(model, 8, seed=9)
    found = quantize_float(folded(model), data, recipe, Silent())
    preprocess.validate(found.model)
    pairs = [(reference(found.model, one)[0], reference(model, one)[0]) for one in samples]
    return found.equalized, sqnr_db(*(np.stack(side) for side in zip(*pairs, strict=True)))


def test_channels_of_unlike_ranges():
    none, before = quantized(block(1.5), Recipe(equalizes=False))
    scaled, after = quantized(block(1.5), Recipe())
    assert none == ()
    assert "r1_scaled" in scaled
    assert after > before + 5


def test_like_channels_are_left_alone():
    model = block(0)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "bias1", "w2", "bias2"):
            values = np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)
            tensor.raw_data = np.repeat(values[:1], len(values), axis=0).tobytes()
    model = folded(model)
    found, scaled = equalize(model, frames(model, 16), Recipe(), Silent(), multiplies=True)
    assert found is model
    assert not scaled.factors


def test_compare_counts_in_the_sources_units():
    """Scaled tensors and weights are those of the float network, but for what was rounded."""
    model = folded(block(1.5))
    made = quantize_float(model, frames(model, 16), Recipe(), Silent()).model
    assert ScaledChannels.read(made).factors.keys() >= {"r1_scaled"}
    sides = OnnxSide("float", "float ONNX", model), OnnxSide("int8", "QDQ", made)
    found = match(*sides, frames(model, 1)[0])
    layers = LayerComparison(*sides, found)
    for sample in frames(model, 4):
        layers.add(sample)
    figures = layers.finish()
    assert {one.pair.theirs for one in figures} >= {"r1_scaled_dequantized"}
    for one in figures:
        assert min(one.single.sqnr_db, one.accumulated.sqnr_db) > 20
    assert len(found.layers) == 3
    for ours, theirs in found.layers:
        assert (np.abs(ours.real - theirs.real) <= 0.501 * theirs.steps).all()  # a rounding, and float32's of the scale
