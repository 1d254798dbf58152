"""Pieces of a canonical model compute what the whole does; the float form has the trained ranges and weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import preprocess
from drpai_qat.backends.drpai_sdk.calibration_frames import calibrate
from drpai_qat.backends.drpai_sdk.submodels import canonical_piece, float_model
from drpai_qat.core.errors import ModelError
from drpai_qat.data.samples import make_samples
from drpai_qat.graph.canonical import read_graph
from tests.reference import reference
from tests.small_models import qdq_model


def canonical(model: onnx.ModelProto | None = None) -> onnx.ModelProto:
    return preprocess.preprocess(model or qdq_model(), "pytorch").model


def test_all_nodes_are_the_whole_model(models) -> None:
    for name in ("pt_up_yolo.onnx", "nncf_mbv3.onnx", "tf_resnet_op13.onnx"):
        model = canonical(onnx.load(models / name))
        graph = read_graph(model)
        piece = canonical_piece(model, graph, graph.nodes, "piece")
        onnx.checker.check_model(piece, full_check=True)
        feeds = make_samples(model, 1, 0)[0]
        wanted, found = (
            dict(zip([value.name for value in one.graph.output], reference(one, feeds), strict=True))
            for one in (model, piece)
        )
        assert wanted.keys() == found.keys()
        for output, value in wanted.items():
            np.testing.assert_array_equal(found[output], value)


def test_two_pieces_in_a_row_are_the_whole(models) -> None:
    model = canonical(onnx.load(models / "pt_conv_resnet.onnx"))
    graph = read_graph(model)
    pieces = [
        canonical_piece(model, graph, part, "p") for part in (graph.nodes[:11], graph.nodes[11:])
    ]  # the cut falls where it falls: several tensors cross it
    values = dict(make_samples(model, 1, 0)[0])
    wanted = reference(model, values)
    for piece in pieces:
        feeds = {value.name: values[value.name] for value in piece.graph.input}
        values |= dict(zip([value.name for value in piece.graph.output], reference(piece, feeds), strict=True))
    np.testing.assert_array_equal(values[model.graph.output[0].name], wanted[0])


def test_weights_are_exact_and_each_range_is_a_clip() -> None:
    model = canonical()
    graph = read_graph(model)
    floats = float_model(model, graph)
    onnx.checker.check_model(floats.model, full_check=True)
    operators = [node.op_type for node in floats.model.graph.node]
    assert operators == ["Clip", "Conv", "Relu", "Clip", "GlobalAveragePool", "Flatten", "Clip"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in floats.model.graph.initializer}
    (weight,) = floats.weights
    np.testing.assert_array_equal(constants[weight], graph.weights[weight].real)
    ranges = [(round(one.low, 4), round(one.high, 4)) for one in floats.ranges]
    assert ranges == [(-2.56, 2.54), (0.0, 12.75), (-12.8, 12.7)]
    assert all(one.full for one in floats.ranges)


def narrow(clip: str, readers: str = "") -> onnx.ModelProto:
    text = f"""
        <ir_version: 8, opset_import: ["" : 13]>
        net (float[1,4] x) => (float[1,4] y{", float[1,4] z" if readers else ""})
        <float s = {{0.5}}, uint8 zero = {{10}}, float low = {{-5}}, float high = {{58.5}}, float far = {{-100}}>
        {{
          c = Clip ({clip})
          q = QuantizeLinear (c, s, zero)
          y = DequantizeLinear (q, s, zero)
          {readers}
        }}"""
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))


def test_the_clip_of_a_narrower_range_is_part_of_it() -> None:
    model = narrow("x, low, high")  # 0..127 of 255 steps
    floats = float_model(model, read_graph(model))
    (one,) = floats.ranges
    assert (one.clipped, one.low, one.high, one.full) == ("x", -5, 58.5, False)
    assert [node.op_type for node in floats.model.graph.node] == ["Clip"]
    model = narrow("x, far, high")  # wider below than the grid
    (one,) = float_model(model, read_graph(model)).ranges
    assert (one.low, one.high) == (-5, 58.5)
    model = narrow("x, low")
    (one,) = float_model(model, read_graph(model)).ranges
    assert (one.low, one.high, one.full) == (-5, 122.5, True)


def test_a_clip_that_others_read_stays() -> None:
    model = narrow("x, low, high", "z = Neg (c)")
    floats = float_model(model, read_graph(model))
    assert [node.op_type for node in floats.model.graph.node] == ["Clip", "Clip", "Neg"]
    feeds = {"x": np.array([[-9, 0.2, 60, 300]], np.float32)}
    y, z = reference(floats.model, feeds)
    np.testing.assert_allclose(y, [[-5, 0.2, 58.5, 58.5]], rtol=1e-6)
    np.testing.assert_allclose(z, -y, rtol=1e-6)


def test_a_grid_per_channel_of_an_activation_is_refused() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]> net (float[1,2] x) => (float[1,2] y)
        <float[2] s = {0.5, 0.25}, uint8[2] zero = {10, 11}, uint8[1,2] q>
        { q = QuantizeLinear <axis=1> (x, s, zero)  y = DequantizeLinear <axis=1> (q, s, zero) }""")
    with pytest.raises(ModelError, match="a grid per channel of an activation"):
        float_model(model, read_graph(model))


def test_frames_reach_both_ends_and_stay_within_the_input(models) -> None:
    """The random samples reach 9 of 13 ranges of this network, the made-up ones the rest."""
    model = canonical(onnx.load(models / "aimet_resnet_bn.onnx"))
    floats = float_model(model, read_graph(model))
    samples = make_samples(model, 2, 0)
    found = calibrate(floats, samples, 0)
    assert found.given == 2
    assert all(one.both for one in found.reached)
    alone = float_model(model, read_graph(model))
    assert len(found.frames) > 2
    low, high = alone.ranges[0].low, alone.ranges[0].high
    for frame in found.frames:
        (value,) = frame.values()
        assert low <= value.min() <= value.max() <= high
    again = calibrate(floats, samples, 0)
    assert all(
        np.array_equal(one[name], other[name])
        for one, other in zip(found.frames, again.frames, strict=True)
        for name in one
    )
