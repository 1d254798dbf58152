from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import ModelError
from preprocess import preprocess
from preprocess.opening import opset_of
from tests.preprocess.building import fold, model, ops

PAIR = """
net (float[2,4] x) => (float[2,4] y)
{
  q = %sQuantizeLinear (x, s, z)
  y = %sDequantizeLinear (q, s, z)
}"""
BASE = {"s": np.float32(0.02), "z": np.uint8(7)}


def unchecked(text: str, **constants: object) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(text)
    parsed.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return parsed


def test_initializers_listed_as_inputs_are_constants() -> None:
    text = PAIR.replace("x) =>", "x, float s, uint8 z) =>") % ("", "")
    result = fold(model(text, **BASE))
    assert [one.name for one in result.model.graph.input] == ["x"]


def test_older_opsets_are_converted() -> None:
    text = '<ir_version: 5, opset_import: ["" : 10]>' + PAIR % ("", "")
    result = fold(model(text, **BASE))
    assert opset_of(result.model) == 13
    assert any("opset 10 to 13" in note.reason for note in result.log)


@pytest.mark.parametrize(("dtype", "opset"), [(np.uint8, 13), (np.int16, 21), (np.uint16, 21)])
def test_microsoft_nodes_are_standard_ones(dtype: type, opset: int) -> None:
    domain = "com.microsoft."
    text = '<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>' + PAIR % (domain, domain)
    result = fold(model(text, s=np.float32(0.0002), z=np.array(7, dtype)), spread=0.01)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert opset_of(result.model) == opset
    assert [one.domain for one in result.model.opset_import] == [""]


def test_local_functions_are_inlined() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "pkg" : 1]>
net (float[2,4] x) => (float[2,4] y)
{
  f = pkg.fake (x, s, z)
  y = Relu (f)
}
<domain: "pkg", opset_import: ["" : 17]>
fake (a, b, c) => (d)
{
  q = QuantizeLinear (a, b, c)
  d = DequantizeLinear (q, b, c)
}"""
    assert ops(fold(model(text, **BASE)).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Relu": 1}


@pytest.mark.parametrize(
    ("domain", "op", "says"),
    [
        ("qonnx.custom_op.general", "BipolarQuant", "is QONNX; .*export_onnx_qcdq"),
        ("onnx.brevitas", "Trunc", "is QONNX of Brevitas"),
        ("mct_quantizers", "ActivationLutPOTQuantizer", "FAKELY_QUANT"),
        ("com.microsoft", "MultiHeadAttention", "an operator of onnxruntime's optimizer"),
        ("trt", "TRT_FP8QuantizeLinear", "a TensorRT dialect"),
        ("com.acme", "Magic", "not standard ONNX"),
    ],
)
def test_dialects_are_named(domain: str, op: str, says: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 13, "{domain}" : 1]>
net (float[2,4] x) => (float[2,4] y)
{{
  q = {domain}.{op} (x)
  y = Relu (q)
}}"""
    with pytest.raises(ModelError, match=rf"node q \({op}\): domain {domain} .*{says}"):
        preprocess(unchecked(text))


@pytest.mark.parametrize("op", ["DynamicQuantizeLinear", "ConvInteger"])
def test_dynamic_quantization_is_refused(op: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 13]> net (float[2,4] x) => (float[2,4] y) {{ y = {op} (x) }}'
    with pytest.raises(ModelError, match=r"are computed at run time.* --calibration FILE or --images"):
        preprocess(unchecked(text))


def test_unknown_operators_are_named() -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> net (float[2,4] x) => (float[2,4] y) { y = PartitionedCall (x) }'
    with pytest.raises(ModelError, match=r"node y \(PartitionedCall\): no such ONNX operator"):
        preprocess(unchecked(text))


def test_dialects_inside_branches_are_found() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13, "com.acme" : 1]>
net (float[2] x, bool c) => (float[2] y)
{
  y = If (c) <
    then_branch = t () => (float[2] a) { a = com.acme.Magic (x) },
    else_branch = e () => (float[2] b) { b = Relu (x) }
  >
}"""
    with pytest.raises(ModelError, match=r"Magic.*com.acme"):
        preprocess(unchecked(text))


def test_a_branch_on_a_constant_is_taken() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y) <bool c = {1}>
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  y = If (c) <
    then_branch = t () => (float[2,4] a) { a = Relu (d) },
    else_branch = e () => (float[2,4] b) { b = Neg (d) }
  >
}"""
    assert ops(fold(model(text, **BASE)).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Relu": 1}


def test_a_branch_at_run_time_stays_and_is_noted() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  m = ReduceMax <keepdims=0> (d)
  c = Greater (m, half)
  y = If (c) <
    then_branch = t () => (float[2,4] a) { a = Relu (d) },
    else_branch = e () => (float[2,4] b) { b = Neg (d) }
  >
}"""
    result = fold(model(text, half=np.float32(0.5), **BASE))
    assert ops(result.model)["If"] == 1
    assert any("decided at run time" in note.reason for note in result.log)


def test_a_file_without_operator_set_is_refused() -> None:
    source = model(PAIR % ("", ""), **BASE)
    del source.opset_import[:]
    with pytest.raises(ModelError, match="imports no standard ONNX operator set"):
        preprocess(source)
