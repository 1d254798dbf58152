import pytest

from drpai_qat.core.errors import OptionError
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.model_options import ModelOptions


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
    options = ModelOptions("m.onnx", input_shape=["b:1,2", "1,3", "1,4"], input_name=["a", "c"])
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
        ModelOptions("m.onnx", input_shape=shapes, input_name=names)


def test_one_shot_iterables_are_kept():
    options = ModelOptions("m.onnx", input_shape=(shape for shape in ["1,2"]), input_name=iter(["a"]))
    assert options.input_shapes == options.input_shapes == (InputShape("a", (1, 2)),)
