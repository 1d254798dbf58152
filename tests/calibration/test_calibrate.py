"""Float models quantized after training, and gaps of trained ones filled."""

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

import preprocess
from drpai_qat.calibration.calibrate import fill_gaps, quantize_float
from drpai_qat.calibration.kinds import kinds_of_tensors
from drpai_qat.calibration.recipe import METHODS, Recipe
from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.core.progress import Silent
from drpai_qat.core.sqnr import sqnr_db
from tests.calibration.float_models import attention, frames, make, residual
from tests.reference import reference
from tests.small_models import qdq_model


def folded(model):
    found = preprocess.preprocess(model, may_be_float=True)
    assert found.is_float
    return found.model


def quantized(model, recipe=None, **how):
    return quantize_float(folded(model), frames(model), recipe or Recipe(), Silent(), **how)


def agreement(model, source):
    """SQNR over samples that did not calibrate."""
    samples = frames(source, 4, seed=9)
    pairs = [(reference(model, one)[0], reference(source, one)[0]) for one in samples]
    return sqnr_db(*(np.stack(side) for side in zip(*pairs, strict=True)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_canonical_model(method):
    found = quantized(residual(), Recipe(method=method))
    preprocess.validate(found.model)
    assert found.frames == 8
    assert agreement(found.model, residual()) > 25


def test_what_runs_in_a_layers_kernel_is_rounded_once():
    found = quantized(residual(), Recipe(equalizes=False))
    # x, both ReLUs, the SiLU, the two parts of the concatenation, what is pooled, and its mean
    assert found.tensors == ("x", "r1", "m2", "r3", "c4", "c5", "c6", "g")
    kinds = [node.op_type for node in found.model.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("QuantizeLinear") == 8


def test_integer_operators_have_a_grid_on_each_result():
    found = quantized(residual(), Recipe(equalizes=False), everywhere=True)
    preprocess.validate(found.model)
    assert set(found.tensors) == {"x", "r1", "c2", "m2", "c3", "r3", "c4", "c5", "k", "c6", "g", "y"}
    scales = {n.input[0]: n.input[1] for n in found.model.graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: float(onnx.numpy_helper.to_array(t)) for t in found.model.graph.initializer if not t.dims}
    assert len({values[scales[name]] for name in ("c4", "c5", "k")}) == 1  # one grid for what is joined


def test_products_of_activations():
    found = quantized(attention(), Recipe(equalizes=False))
    preprocess.validate(found.model)
    # the sum with the network's input, which a normalization reads, stays float32
    assert found.tensors == ("n", "q", "k", "v", "p", "mixed")
    assert agreement(found.model, attention()) > 28


def test_the_state_a_recurrent_layer_starts_from():
    """Networks that listen step by step take the state as an input: a layer multiplies it as well as the frame."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,1,16] x, float[1,1,12] h, float[1,1,12] c) => (float[1,1,12] next_h, float[1,1,12] next_c)
    { y, next_h, next_c = LSTM <hidden_size=12> (x, w, r, bias, , h, c) }
    """
    model = make(text, w=(1, 48, 16), r=(1, 48, 12), bias=(1, 96))
    found = quantized(model)
    preprocess.validate(found.model)
    assert found.tensors == ("x", "h")
    assert agreement(found.model, model) > 28


def test_symmetric_activations():
    found = quantized(residual(), Recipe(symmetric=True))
    points = {n.input[2] for n in found.model.graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: onnx.numpy_helper.to_array(t) for t in found.model.graph.initializer}
    assert not any(values[name].any() for name in points)


def test_a_huge_bias_gets_larger_steps():
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "bias7":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] = 1e9
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "bias7"))
    found = quantized(model)
    preprocess.validate(found.model)
    sample = frames(model, 1)[0]
    assert reference(found.model, sample)[0][0, 3] == pytest.approx(1e9, rel=1e-6)


def test_a_channel_of_next_to_nothing_counts_as_zero():
    """Weight decay leaves 1e-40 in channels that a network has no use for, as in PP-OCRv4's recognizer."""
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] = 1e-40
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    found = quantized(model)
    preprocess.validate(found.model)
    assert agreement(found.model, model) > 25


def test_weights_written_by_hand_keep_their_grid():
    """The mean over 0..15 that YOLOv8's boxes end with: integers, so that 8 bits lose nothing."""
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w4":
            values = (np.arange(64, dtype=np.float32) % 16).reshape(8, 8, 1, 1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w4"))
    graph = quantized(model).model.graph
    made = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    (node,) = (one for one in graph.node if one.output[0].startswith("w4"))
    np.testing.assert_array_equal(made[node.input[0]], (np.arange(64) % 16).reshape(8, 8, 1, 1))
    np.testing.assert_array_equal(made[node.input[1]], np.ones(8))


def test_no_frames():
    with pytest.raises(OptionError, match="no calibration frames"):
        quantize_float(folded(residual()), [], Recipe(), Silent())


def test_a_float_model_is_no_qat_model():
    with pytest.raises(ModelError, match="or drop -a and -m"):
        preprocess.preprocess(residual(), "pytorch")


def without_input_grid():
    """The QAT model with the grid of its input dropped."""
    model = qdq_model()
    nodes = [node for node in model.graph.node if not {"qx", "dx"} & set(node.output)]
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == "dx":
                node.input[index] = "x"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("method", ["minmax", "layer"])
def test_gaps_of_a_trained_model(method):
    source = without_input_grid()
    before = preprocess.preprocess(source, "pytorch").model
    found = fill_gaps(before, frames(source, 16), Recipe(method=method), Silent())
    preprocess.validate(found.model)
    assert found.tensors == ("x",)
    old, new = (
        {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer} for model in (before, found.model)
    )
    assert all(np.array_equal(new[name], value) for name, value in old.items())  # nothing trained is touched
    if method == "minmax":
        assert agreement(found.model, source) > 30
    for one in frames(source, 4, seed=9):  # a wider range rounds the input elsewhere: a step of the trained grid behind
        apart = reference(found.model, one)[0] - reference(source, one)[0]
        assert np.abs(apart).max() <= 1.001 * old["so"]


def test_all_operands_of_a_dynamic_network_get_a_grid(tmp_path):
    """Also those with a bound, as behind a Softmax: the source rounds them to 8 bits."""
    onnx.save(attention(), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", extra_options={"MatMulConstBOnly": False})
    source = onnx.load(tmp_path / "dynamic.onnx")
    before = preprocess.preprocess(source, has_data=True)
    assert before.dynamic
    found = fill_gaps(before.model, frames(source), Recipe(), Silent(), dynamic=True).model
    preprocess.validate(found)
    makers = {name: node.op_type for node in found.graph.node for name in node.output}
    moved = ("DequantizeLinear", "Transpose", "Reshape")
    products = [node for node in found.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(products) > 2
    assert all(makers[name] in moved for node in products for name in node.input[:2])
    assert agreement(found, source) > 25


def test_no_gaps():
    before = preprocess.preprocess(qdq_model(), "pytorch").model
    assert fill_gaps(before, [], Recipe(), Silent()).tensors == ()


def test_where_ranges_come_from():
    source = without_input_grid()
    found = fill_gaps(preprocess.preprocess(source, "pytorch").model, frames(source), Recipe(), Silent())
    kinds = kinds_of_tensors(found.model, set(found.tensors))
    assert kinds["calibrated"] == ["x"]
    assert kinds["trained"] == ["r", "f"]
    assert kinds["derived"] == ["p"]  # a mean of what lies on a grid
