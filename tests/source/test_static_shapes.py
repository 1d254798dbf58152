import pytest
from onnx import TensorProto, helper

from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.static_shapes import specialize


def model(*shapes):
    """One Relu for each input shape, outputs of the same shape."""
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"y{i}"]) for i in range(len(shapes))]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs))


def fixed(source, *shapes):
    result = specialize("m.onnx", source, tuple(InputShape.parse(shape) for shape in shapes))
    return [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in result.graph.input]


@pytest.mark.parametrize(
    ("shape", "given", "wanted"),
    [
        ([1, 3, 8, 8], [], [1, 3, 8, 8]),
        (["N", 3, 8, 8], [], [1, 3, 8, 8]),
        ([None, 3, 8, 8], [], [1, 3, 8, 8]),
        ([0, 3, 8, 8], [], [1, 3, 8, 8]),
        (["N", 3, 8, 8], ["4,3,8,8"], [4, 3, 8, 8]),
        (["N", 3, "H", "W"], ["x0:2,3,16,32"], [2, 3, 16, 32]),
        ([1, 3, 8, 8], ["1,3,8,8"], [1, 3, 8, 8]),
        ([-1, 3, "?", "?"], ["1,3,48,192"], [1, 3, 48, 192]),  # one name for two sizes: it is none
        (None, ["1,3,8,8"], [1, 3, 8, 8]),
    ],
)
def test_one_input(shape, given, wanted):
    assert fixed(model(shape), *given) == [wanted]


def test_a_size_of_minus_one_is_inferred():
    result = specialize("m.onnx", model([-1, 3]), ())
    assert result.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_source_stays_as_it_is():
    source = model(["N", 3])
    fixed(source)
    assert source == model(["N", 3])


def test_a_symbol_means_the_same_everywhere():
    source = model(["N", "C"], ["N", "C"])
    assert fixed(source, "x0:2,5") == [[2, 5], [2, 5]]
    result = specialize("m.onnx", source, (InputShape("x0", (2, 5)),))
    assert [dim.dim_value for dim in result.graph.output[1].type.tensor_type.shape.dim] == [2, 5]
    with pytest.raises(OptionError, match=r"'C' of m\.onnx is 5 for one input and 6"):
        fixed(source, "x0:2,5", "x1:2,6")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["1,3,8"], "4 dimensions"),
        (["1,3,8,9"], "dimension 3"),
        (["other:1,3,8,8"], "no input 'other'"),
    ],
)
def test_shapes_that_contradict_the_model(given, says):
    with pytest.raises(OptionError, match=says):
        fixed(model([1, 3, 8, 8]), *given)


def test_a_shape_without_a_name_needs_a_single_input():
    with pytest.raises(OptionError, match="-s name:shape"):
        fixed(model(["N", 2], ["N", 3]), "1,2")


def test_dynamic_dimensions_are_named_with_the_flag_to_use():
    with pytest.raises(ModelError, match=r"H, W in input 'x0' \[1, 3, H, W\].*-s x0:1,3,224,224"):
        fixed(model(["N", 3, "H", "W"]))
    with pytest.raises(ModelError, match=r"no shape.*-s x0:"):
        fixed(model(None))


def test_the_suggested_flag_survives_a_shell():
    source = model(["N", 3, "H", "W"])
    source.graph.input[0].name = "an image"
    source.graph.node[0].input[0] = "an image"
    with pytest.raises(ModelError, match="-s 'an image:1,3,224,224'"):
        fixed(source)


def test_absurd_sizes():
    with pytest.raises(ModelError, match=r"2\^31"):
        fixed(model(["N", 3, "H", "W"]), "1,3,99999,99999")


def test_what_a_file_says_of_shapes_behind_its_inputs_is_a_claim():
    source = model(["N", 3])
    del source.graph.output[0].type.tensor_type.shape.dim[:]
    for size in (7, 3):
        source.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    source.graph.value_info.append(helper.make_tensor_value_info("y0", TensorProto.FLOAT, [9, 9]))
    result = specialize("m.onnx", source, (InputShape("x0", (2, 3)),))
    assert [dim.dim_value for dim in result.graph.output[0].type.tensor_type.shape.dim] == [2, 3]
    assert not result.graph.value_info
