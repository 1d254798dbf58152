import numpy as np
import onnx
import pytest

from drpai_qat.check.fidelity import check_layers, check_outputs, first_divergence, fold_divergence
from drpai_qat.check.layers import LayerFigures
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.errors import ModelError
from drpai_qat.data.samples import make_samples
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess import preprocess
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


def test_a_wrong_fold_is_named(source, canonical):
    (sample,) = make_samples(canonical, 1, 0)
    assert fold_divergence(source, canonical, sample) == ""
    assert "first at dr" in fold_divergence(source, scaled_weights(canonical, 1.5), sample)


def test_first_divergent_layer_is_named():
    layers = [
        LayerFigures("a", "Conv one", 1.0, 0, 1000),
        LayerFigures("b", "Add two", 0.5, 9, 1000),
        LayerFigures("c", "x", 0, 99, 1000),
    ]
    text = first_divergence(layers)
    assert "b (Add two)" in text
    assert "9 LSB" in text
    assert first_divergence(layers[:1]) == ""


def test_check_layers_without_quantizers():
    model = qdq_model()
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Relu", ["x"], ["y"]))
    assert check_layers(model, lambda cut: pytest.fail("nothing to compile"), []) == ()


def test_onnxruntime_refusals_are_one_line(source):
    source.graph.node[3].op_type = "Unheard"
    with pytest.raises(ModelError, match=r"^m\.onnx: onnxruntime can't load it: .*Unheard") as caught:
        Reference(source, "m.onnx")
    assert "\n" not in str(caught.value)


def test_a_feed_of_the_wrong_shape_is_one_line(source):
    with pytest.raises(ModelError, match="onnxruntime can't run it"):
        Reference(source, "m.onnx").run({"x": np.zeros((1, 4, 8, 8), np.float32)})
