from pathlib import Path

import pytest

from drpai_qat.core.errors import OptionError
from drpai_qat.core.input_shape import InputShape
from drpai_qat.options import SdkOptions, compile_options, refuse_unserved


@pytest.mark.parametrize(
    ("text", "name", "dims"),
    [
        ("1,3,224,224", None, (1, 3, 224, 224)),
        ("1x3x224x224", None, (1, 3, 224, 224)),
        ("data:1,3,8,8", "data", (1, 3, 8, 8)),
        ("serving_default_input_1:0:1,28,28", "serving_default_input_1:0", (1, 28, 28)),
        (" 1, 10", None, (1, 10)),
    ],
)
def test_input_shape(text, name, dims):
    assert InputShape.parse(text) == InputShape(name, dims)


@pytest.mark.parametrize("text", ["", "1,3,", "a,b", "data:", "1,-3,8,8", "0,3", "1.5,2", "N,3,224,224"])
def test_input_shape_refused(text):
    with pytest.raises(OptionError, match="-s"):
        InputShape.parse(text)


def test_names_go_to_shapes_without_one():
    options = compile_options("m.onnx", input_shape=["b:1,2", "1,3", "1,4"], input_name=["a", "c"])
    assert [(one.name, one.dims) for one in options.input_shapes] == [("b", (1, 2)), ("a", (1, 3)), ("c", (1, 4))]


@pytest.mark.parametrize(
    ("shapes", "names", "says"),
    [
        (["1,2", "1,3"], [], "more than once"),
        (["1,2"], ["a", "b"], "2 network input"),
        ([], ["a"], "0 shape"),
        (["a:1,2", "a:1,3"], [], "more than one shape"),
    ],
)
def test_contradicting_shapes(shapes, names, says):
    with pytest.raises(OptionError, match=says):
        compile_options("m.onnx", input_shape=shapes, input_name=names)


def test_defaults():
    options = compile_options("some/net.qat.onnx", qat_type="PyTorch")
    assert options.qat_type == "pytorch"
    assert options.output_dir == Path("out/net.qat")
    assert options.thresholds.min_sqnr_db == 30


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"qat_type": "jax"}, "jax"),
        ({"check": "everything"}, "everything"),
        ({"samples": 0}, "sample"),
        ({"seed": -1}, "seed"),
        ({"output_dir": ""}, "-o"),
    ],
)
def test_wrong_values(arguments, says):
    with pytest.raises(OptionError, match=says):
        compile_options("m.onnx", **arguments)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"drp_compiler_dir": "T", "quantization_tool": "Q", "quantization_option": "az True"}, "-d, -q/-c, -p:"),
        ({"drp_compiler_version": "100"}, "-v:"),
        ({"record_dir": "x", "num_frame": 3, "images": "i"}, "-r, -n, --images:"),
        ({"cpu_data_type": "float16"}, "float16"),
        ({"level": 0}, "--level 0"),
    ],
)
def test_nothing_asked_for_is_ignored(given, named):
    with pytest.raises(OptionError, match=named) as caught:
        refuse_unserved(SdkOptions(**given))
    assert "drop" in str(caught.value) or "without" in str(caught.value)


def test_what_the_builtin_compiler_does_anyway_is_accepted():
    refuse_unserved(SdkOptions(cpu_data_type="float32", level=1))
