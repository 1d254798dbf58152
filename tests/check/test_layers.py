"""The cut model, run by onnxruntime itself, must give its own integers back: the cut loses and adds nothing."""

import onnx
import pytest

from drpai_qat.check.layers import LayerFigures, compare_layers, cut_at_quantizers, reference_integers
from drpai_qat.data.samples import make_samples
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess import preprocess
from tests.small_models import qdq_model


@pytest.fixture
def canonical():
    return preprocess(qdq_model(), "pytorch").model


def test_cut_is_valid_and_complete(canonical):
    cut = cut_at_quantizers(canonical)
    onnx.checker.check_model(cut.model)
    assert len(cut.tensors) == 3
    assert {value.name for value in cut.model.graph.output} == {*cut.tensors, "y"}
    assert {value.name for value in cut.model.graph.input} == {"x", *(f"{name}/fed" for name in cut.tensors)}
    assert cut.makers[0] == "input x"
    assert cut.makers[1].startswith("Relu")


def test_reference_agrees_with_itself(canonical):
    cut = cut_at_quantizers(canonical)
    samples = make_samples(canonical, 2, 0)
    integers = reference_integers(canonical, cut, samples, "canonical")
    figures = compare_layers(cut, samples, integers, Reference(cut.model, "cut").run)
    assert [one.equal for one in figures] == [1.0] * 3
    assert not any(one.diverges for one in figures)


def test_an_error_shows_in_its_own_layer_only(canonical):
    """The convolution's weights are changed in the cut model: what comes after still gets the right integers."""
    cut = cut_at_quantizers(canonical)
    samples = make_samples(canonical, 2, 0)
    integers = reference_integers(canonical, cut, samples, "canonical")
    for tensor in cut.model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    figures = compare_layers(cut, samples, integers, Reference(cut.model, "cut").run)
    assert [one.diverges for one in figures] == [False, True, False]
    assert figures[1].max_lsb > 1


def test_float_outputs_are_not_cut():
    model = qdq_model()
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Relu", ["x"], ["y"]))
    assert cut_at_quantizers(model).tensors == ()


@pytest.mark.parametrize(
    ("equal", "max_lsb", "diverges"), [(1.0, 0, False), (0.99, 1, False), (0.95, 1, True), (0.999, 2, True)]
)
def test_what_counts_as_divergence(equal, max_lsb, diverges):
    assert LayerFigures("t", "Conv c", equal, max_lsb, 1000).diverges is diverges
