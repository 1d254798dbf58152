"""Dynamic quantization, as onnxruntime's tool and optimizer write it, and forms of other exporters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from drpai_qat.core.errors import ModelError
from drpai_qat.core.quantization import QuantParams
from preprocess import Preprocessed, preprocess, validate
from tests.preprocess.building import model, normal, ops, random_feeds
from tests.reference import reference

Weights = list[tuple[NDArray[Any], NDArray[Any]]]


def mlp() -> onnx.ModelProto:
    return model(
        """net (float[4,16] x) => (float[4,10] y)
{
  a = MatMul (x, w)
  b = Add (a, c)
  r = Relu (b)
  y = Gemm (r, v, d)
}""",
        w=normal(16, 32, spread=0.3), c=normal(32, seed=1), v=normal(32, 10, seed=2, spread=0.3), d=normal(10, seed=3),
    )  # fmt: skip


def cnn() -> onnx.ModelProto:
    return model(
        """net (float[1,3,9,9] x) => (float[1,5] y)
{
  a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, c)
  r = Relu (a)
  b = Conv <group = 2> (r, v)
  g = GlobalAveragePool (b)
  f = Flatten (g)
  y = MatMul (f, u)
}""",
        w=normal(8, 3, 3, 3, spread=0.3), c=normal(8, seed=1), v=normal(6, 4, 3, 3, seed=2, spread=0.3),
        u=normal(6, 5, seed=3),
    )  # fmt: skip


def lstm() -> onnx.ModelProto:
    return model(
        "net (float[5,2,8] x) => (float[5,1,2,6] y) { y = LSTM <hidden_size = 6> (x, w, r, b) }",
        w=normal(1, 24, 8, spread=0.3), r=normal(1, 24, 6, seed=1, spread=0.3), b=normal(1, 48, seed=2),
    )  # fmt: skip


NETWORKS = {"mlp": mlp, "cnn": cnn, "lstm": lstm}


def dynamic(source: onnx.ModelProto, tmp_path: Any, **options: Any) -> onnx.ModelProto:
    """`source` as quantize_dynamic writes it."""
    onnx.save(source, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", **options)
    return onnx.load(tmp_path / "dynamic.onnx")


def folded(source: onnx.ModelProto, least_db: float = 30) -> Preprocessed:
    """The canonical model, checked, and near to the source, which rounds activations that it leaves alone."""
    result = preprocess(source, has_data=True)
    assert result.dynamic
    assert not any(note.action == "warning" and "stay float32" in note.reason for note in result.log)
    onnx.checker.check_model(result.model, full_check=True)
    validate(result.model)
    assert {one.domain for one in result.model.opset_import} == {""}
    feeds = random_feeds(source)
    for wanted, got in zip(reference(source, feeds), reference(result.model, feeds), strict=True):
        assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()) > least_db
    return result


def values(made: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in made.graph.initializer}


def weights_by_name(source: onnx.ModelProto) -> Weights:
    """Steps from zero, and scales, of the weights in a file of onnxruntime's."""
    known, found = values(source), []
    for name, q in known.items():
        if name.endswith("_quantized"):
            base = name.removesuffix("_quantized")
            scale, point = known[f"{base}_scale"], known[f"{base}_zero_point"]
            if q.ndim == 3:  # a recurrent layer's, gates last
                q = q.transpose(0, 2, 1)
                point = point.reshape(-1, 1) if point.size > 1 else point
            found.append((q.astype(np.int32) - point.astype(np.int32), scale.reshape(-1)))
    return found


def weights_of_layers(made: onnx.ModelProto) -> Weights:
    """The same of a canonical model; biases are int32."""
    known, found = values(made), []
    for node in made.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            q, scale, point = (known[name] for name in node.input)
            assert q.dtype == np.int8
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            params = QuantParams.read(scale, point, axis=axis, where=node.name)
            along = [1] * q.ndim
            if params.axis is not None:
                along[params.axis] = -1
            found.append((q.astype(np.int32) - point.reshape(along if point.ndim else ()), scale.reshape(-1)))
    return found


def same(one: Weights, other: Weights) -> bool:
    """Equal bit for bit, in any order."""

    def key(weights: Weights) -> list[tuple[bytes, bytes]]:
        return sorted((np.ascontiguousarray(q, np.int32).tobytes(), s.tobytes()) for q, s in weights)

    return key(one) == key(other)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_weights_keep_their_integers_and_scales(name: str, weight_type: Any, per_channel: bool, tmp_path: Any) -> None:
    source = dynamic(NETWORKS[name](), tmp_path, weight_type=weight_type, per_channel=per_channel)
    made = folded(source).model
    found = weights_by_name(source)
    assert len(found) == {"mlp": 2, "cnn": 3, "lstm": 2}[name]
    assert same(weights_of_layers(made), found)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_what_onnxruntime_optimized(name: str, tmp_path: Any) -> None:
    source = dynamic(NETWORKS[name](), tmp_path, weight_type=QuantType.QUInt8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "dynamic.onnx", options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert name == "lstm" or ops(optimized)["DynamicQuantizeMatMul"]
    assert same(weights_of_layers(folded(optimized).model), weights_by_name(source))


FORMS = {
    "dequantized at once": """
  q, s, z = DynamicQuantizeLinear (x)
  d = DequantizeLinear (q, s, z)
  v = DequantizeLinear (w, t)
  y = MatMul (d, v)""",
    "moved, with each scale in a Mul of its own": """
  q, s, z = DynamicQuantizeLinear (x)
  m = Transpose <perm = [1, 0]> (q)
  n = Transpose <perm = [1, 0]> (m)
  i = MatMulInteger (n, w, z)
  f = Cast <to = 1> (i)
  a = Mul (t, f)
  y = Mul (a, s)""",
    "a bias rounded in the run": """
  q, s, z = DynamicQuantizeLinear (x)
  p = Mul (s, t)
  e = Div (b, p)
  g = Floor (e)
  h = Cast <to = 6> (g)
  o = Reshape (h, k)
  i = MatMulInteger (q, w, z)
  j = Add (i, o)
  f = Cast <to = 1> (j)
  l = Mul (s, t)
  y = Mul (f, l)""",
    "to a float in one operator": "q, s, z = DynamicQuantizeLinear (x)\n"
    "y = com.microsoft.MatMulIntegerToFloat (q, w, s, t, z, , b)",
}


@pytest.mark.parametrize("expanded", [False, True], ids=["", "written out with ReduceMin and ReduceMax"])
@pytest.mark.parametrize("form", list(FORMS))
def test_forms(form: str, expanded: bool) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
    text = f"{head} net (float[4,16] x) => (float[4,8] y)\n{{\n{FORMS[form]}\n}}"
    steps = np.arange(-64, 64, dtype=np.int8).reshape(16, 8)
    source = onnx.parser.parse_model(text)
    for name, value in {"w": steps, "t": np.float32(0.01), "b": normal(8), "k": [1, -1]}.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    if expanded:
        source = onnx.inliner.inline_selected_functions(
            source, [("", "DynamicQuantizeLinear")], exclude=False, inline_schema_functions=True
        )
        assert ops(source)["ReduceMax"] == 1
    made = folded(source).model
    assert ops(made)["MatMul"] + ops(made)["Gemm"] == 1  # with a bias
    assert same(weights_of_layers(made), [(steps.astype(np.int32), np.array([0.01], np.float32))])


WRITTEN = {
    "symmetric, by row": """
  a = Abs (x)
  m = ReduceMax <axes = [1], keepdims = 1> (a)
  s = Div (m, c127)
  d = Div (x, s)
  r = Round (d)
  k = Clip (r, cmin, cmax)
  h = Mul (k, s)""",
    "with a zero point": """
  m = ReduceMax <keepdims = 0> (x)
  n = ReduceMin <keepdims = 0> (x)
  e = Sub (m, n)
  s = Div (e, c255)
  o = Div (n, s)
  p = Neg (o)
  z = Round (p)
  d = Div (x, s)
  r = Round (d)
  q = Add (r, z)
  k = Clip (q, c0, c255)
  b = Sub (k, z)
  h = Mul (b, s)""",
}


@pytest.mark.parametrize("form", list(WRITTEN))
def test_in_arithmetic(form: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]>\n'
    text = f"{head} net (float[4,16] x) => (float[4,8] y)\n{{\n{WRITTEN[form]}\n"
    text += " v = DequantizeLinear (w, t)\n y = MatMul (h, v)\n}"
    steps = np.arange(-64, 64, dtype=np.int8).reshape(16, 8)
    limits = {"c127": 127, "cmin": -127, "cmax": 127, "c0": 0, "c255": 255}
    source = model(
        text, w=steps, t=np.float32(0.01),
        **{name: np.float32(value) for name, value in limits.items() if f"{name})" in text or f"{name}," in text},
    )  # fmt: skip
    assert ops(folded(source).model) == {"DequantizeLinear": 1, "MatMul": 1}
    with pytest.raises(ModelError, match=r"node Round_r \(Round\): quantized dynamically: .* --calibration FILE"):
        preprocess(source)


def test_two_activations_become_a_float_product() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
net (float[4,16] x, float[16,3] v) => (float[4,3] y)
{
  q, s, z = DynamicQuantizeLinear (x)
  r, t, k = DynamicQuantizeLinear (v)
  p = Mul (s, t)
  i = MatMulInteger (q, r, z, k)
  f = Cast <to = 1> (i)
  y = Mul (f, p)
}"""
    source = onnx.parser.parse_model(text)
    result = preprocess(source, may_be_float=True, has_data=True)
    assert result.is_float
    assert ops(result.model) == {"MatMul": 1}


@pytest.mark.parametrize(
    "text",
    [
        "q, s, z = DynamicQuantizeLinear (x)\n i = MatMulInteger (q, w, z)\n y = Cast <to = 1> (i)",
        "q, s, z = DynamicQuantizeLinear (x)\n i = MatMulInteger (q, w, z)\n f = Cast <to = 1> (i)\n y = Mul (f, t)",
        "q, s, z = DynamicQuantizeLinear (x)\n e = Div (b, s)\n g = Floor (e)\n h = Cast <to = 6> (g)\n"  # not of s * t
        " i = MatMulInteger (q, w, z)\n j = Add (i, h)\n f = Cast <to = 1> (j)\n p = Mul (s, t)\n y = Mul (f, p)",
        "q, s, z = DynamicQuantizeLinear (x)\n y = Add (x, s)",
        "y = If (c) <then_branch = a () => (float[4,16] e) { q, s, z = DynamicQuantizeLinear (x)\n e = Mul (x, s) },"
        " else_branch = b () => (float[4,16] f) { f = Relu (x) }>",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]>\n'
    source = onnx.parser.parse_model(f"{head} net (float[4,16] x, bool c) => (float[4,16] y)\n{{\n{text}\n}}")
    for name, value in {"w": np.eye(16, dtype=np.int8), "t": np.float32(0.01), "b": normal(16)}.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(ModelError, match=r"node \w+ \(\w+\): quantized dynamically in a form that is not known"):
        preprocess(source, has_data=True)
