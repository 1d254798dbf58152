"""Real exports: the canonical graph computes what the source does, and holds nothing that could have been folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from drpai_qat.core.sqnr import sqnr_db
from preprocess import preprocess, validate
from tests.preprocess.building import ops
from tests.reference import reference_by_batch

MODELS = Path(__file__).parents[1] / "models"

# Nodes that are left: layers, BatchNormalization between trained roundings, QuantizeLinear, layers with float weights.
EXPECTED = {
    "aimet_resnet_bn": (7, 0, 13, 0),
    "brev_cnn": (4, 0, 4, 0),
    "brev_w4a8": (4, 0, 4, 0),
    "mo_unet": (8, 0, 10, 0),
    "nncf_mbv3": (17, 0, 20, 4),
    "pt_conv_resnet": (7, 0, 15, 0),
    "pt_dynbatch_resnet": (7, 0, 10, 0),
    "pt_fuse_mbv2": (17, 0, 31, 0),
    "pt_fx_unet": (7, 0, 13, 1),
    "pt_nofold_resnet": (7, 0, 10, 0),
    "pt_partial_resnet": (7, 0, 5, 4),
    "pt_pt2e_resnet": (7, 0, 13, 0),
    "pt_s8sym_resnet": (7, 0, 10, 0),
    "pt_stub_vit": (10, 0, 23, 0),
    "pt_up_resnet": (7, 6, 13, 0),
    "pt_up_yolo": (15, 13, 30, 0),
}

# Outputs over all samples that folding changes: float32 noise moves a value across a rounding boundary, and the layers
# behind it amplify that. All other models keep every bit.
MOVED = {"nncf_mbv3": 10, "pt_fx_unet": 1, "pt_s8sym_resnet": 3}


def load(name: str) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """Model with batch 1 where it is symbolic, and samples."""
    source = onnx.load(MODELS / f"{name}.onnx")
    for one in source.graph.input:
        for dim in one.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
                dim.dim_value = 1
    return source, np.load(MODELS / f"{name}.npz")["x"]


@pytest.mark.parametrize("name", EXPECTED)
def test_real_export(name: str) -> None:
    source, x = load(name)
    result = preprocess(source, "pytorch")
    validate(result.model)
    onnx.checker.check_model(result.model, full_check=True)
    for expected, got in zip(reference_by_batch(source, x), reference_by_batch(result.model, x), strict=True):
        assert np.count_nonzero(got != expected) <= MOVED.get(name, 0)
        assert sqnr_db(got, expected) >= 45.0
    count = ops(result.model)
    constants = {one.name for one in result.model.graph.initializer}
    layers = [one for one in result.model.graph.node if one.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    floats = [one for one in layers if one.input[1] in constants]
    trained = [one for one in layers if one.input[1] not in constants and not _is_activation(result.model, one)]
    found = (len(trained) + len(floats), count["BatchNormalization"], count["QuantizeLinear"], len(floats))
    assert found == EXPECTED[name]


def _is_activation(made: onnx.ModelProto, layer: onnx.NodeProto) -> bool:
    """True if both operands of a MatMul are computed."""
    constants = {one.name for one in made.graph.initializer}
    maker = next(one for one in made.graph.node if layer.input[1] in one.output)
    return not (maker.op_type == "DequantizeLinear" and maker.input[0] in constants)


def test_qonnx_is_the_network_that_its_twin_is() -> None:
    """brev_cnn is the same network, exported with Q/DQ nodes."""
    data = np.load(MODELS / "brev_qonnx.npz")
    made = [preprocess(onnx.load(MODELS / f"{name}.onnx"), "pytorch").model for name in ("brev_qonnx", "brev_cnn")]
    outputs = [reference_by_batch(one, data["x"])[0] for one in made]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_allclose(outputs[0], data["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_fake_quant_is_in_the_graph_or_in_the_log(name: str) -> None:
    source, _ = load(name)
    result = preprocess(source)
    constants = {one.name for one in source.graph.initializer}
    constants |= {one.output[0] for one in source.graph.node if one.op_type == "Constant"}
    before = {
        one.name or f"{one.op_type}_{one.output[0]}"
        for one in source.graph.node
        if one.op_type == "QuantizeLinear" or (one.op_type == "DequantizeLinear" and one.input[0] in constants)
    }
    kept = {one.name for one in result.model.graph.node}
    folded = {note.node for note in result.log if note.action != "note"}
    assert before
    assert before <= kept | folded
