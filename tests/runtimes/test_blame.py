"""Something broke: is it the file?"""

import onnx
import pytest

from drpai_qat.core.errors import LoweringError, ModelError
from drpai_qat.runtimes.blame import naming
from tests.small_models import qdq_model


def saved(path, channels):
    """A convolution that onnxruntime loads; it runs where weights and input have the same number of channels."""
    source = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 13]> net (float[1,4,2,2] x) => (float y)
        <float[1,{channels},1,1] w = {{{", ".join("1" * channels)}}}> {{ y = Conv (x, w) }}"""
    )
    source.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(source, path)
    return source


def test_what_onnxruntime_refuses_as_it_runs_is_the_files_fault(tmp_path):
    path = tmp_path / "m.onnx"
    source = saved(path, 3)
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime can't run it: .*channels"), naming(path, source):
        raise RuntimeError("deep inside")


def test_what_it_runs_is_ours(tmp_path):
    path = tmp_path / "m.onnx"
    source = saved(path, 4)
    with pytest.raises(RuntimeError, match="deep inside"), naming(path, source):
        raise RuntimeError("deep inside")


def test_named_errors_name_the_file(tmp_path):
    with pytest.raises(LoweringError, match=r"^m\.onnx: node 7"), naming(tmp_path / "m.onnx", qdq_model()):
        raise LoweringError("node 7")
