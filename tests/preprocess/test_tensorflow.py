"""Real exports of tfmot models and int8 TFLite files: nothing trained is lost, nothing computed changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from preprocess import Preprocessed, preprocess, validate
from tests.reference import reference

MODELS = Path(__file__).parents[1] / "models"
NAMES = sorted(path.stem for path in MODELS.glob("tf_*.onnx"))
FLOAT_LAYERS = {"tf_partial_op13": 3, "tf_partdense_op13": 7}
"""Layers that training left float: not annotated, or out of tfmot's reach."""


def static(source: onnx.ModelProto) -> onnx.ModelProto:
    """The model at batch 1."""
    for one in source.graph.input:
        for dim in one.type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.dim_value = 1
    return source


def layers(source: onnx.ModelProto) -> tuple[int, int]:
    """Number of layers with int8 and with float weights."""
    constants = {one.name: one.data_type for one in source.graph.initializer}
    makers = {output: one for one in source.graph.node for output in one.output}
    quantized = unquantized = 0
    for one in source.graph.node:
        if one.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            maker = makers.get(one.input[1])
            quantized += maker is not None and constants.get(maker.input[0]) == onnx.TensorProto.INT8
            unquantized += one.input[1] in constants
    return quantized, unquantized


@pytest.fixture(scope="module", params=NAMES)
def export(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto, Preprocessed]:
    source = static(onnx.load(MODELS / f"{request.param}.onnx"))
    return request.param, source, preprocess(source, "tensorflow")


def test_it_computes_the_same(export: tuple[str, onnx.ModelProto, Preprocessed]) -> None:
    name, source, result = export
    samples = np.load(MODELS / f"{name}.npz")["x"][:4]
    shape = [dim.dim_value for dim in source.graph.input[0].type.tensor_type.shape.dim]
    for sample in samples:
        feeds = {source.graph.input[0].name: sample.reshape(shape).astype(np.float32)}
        for expected, got in zip(reference(source, feeds), reference(result.model, feeds), strict=True):
            noise = np.square(expected - got, dtype=np.float64).sum()
            assert noise <= 1e-6 * np.square(expected, dtype=np.float64).sum()


def test_it_is_canonical(export: tuple[str, onnx.ModelProto, Preprocessed]) -> None:
    _, source, result = export
    onnx.checker.check_model(result.model, full_check=True)
    validate(result.model)
    assert [one.name for one in result.model.graph.input] == [one.name for one in source.graph.input]
    assert [one.name for one in result.model.graph.output] == [one.name for one in source.graph.output]


def test_trained_weights_are_int8(export: tuple[str, onnx.ModelProto, Preprocessed]) -> None:
    name, _, result = export
    quantized, unquantized = layers(result.model)
    assert unquantized == FLOAT_LAYERS.get(name, 0)
    assert quantized
    skipped = [note for note in result.log if note.pass_name == "recover_weights" and note.action == "skipped"]
    assert len(skipped) == unquantized


def test_views_stand_at_no_layers_rounding(export: tuple[str, onnx.ModelProto, Preprocessed]) -> None:
    """Between a layer and its QuantizeLinear there are elementwise steps alone."""
    _, _, result = export
    readers: dict[str, list[onnx.NodeProto]] = {}
    for one in result.model.graph.node:
        for name in one.input:
            readers.setdefault(name, []).append(one)
    for one in result.model.graph.node:
        if one.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            assert not any(reader.op_type in ("Reshape", "Squeeze", "Transpose") and _rounded(reader, readers)
                           for reader in readers.get(one.output[0], []))  # fmt: skip


def _rounded(view: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    return any(reader.op_type == "QuantizeLinear" for reader in readers.get(view.output[0], []))
