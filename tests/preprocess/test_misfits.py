"""What would lead code outside of its tensors is refused by name."""

import re

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from drpai_qat.core.errors import ModelError
from preprocess.misfits import refuse_misfits
from preprocess.opening import open_graph
from preprocess.passlog import PassLog
from preprocess.shape_inference import make_shapes_static
from tests.preprocess.building import model

TEN = np.zeros((2, 5), np.float32)


def refuse(body, **constants):
    log = PassLog()
    source = model(f"g (float[4,5] x) => (float y) {{ {body} }}", **constants)
    source.graph.output[0].type.tensor_type.ClearField("shape")
    graph = make_shapes_static(open_graph(source, log), log)
    refuse_misfits(graph, log)


@pytest.mark.parametrize(
    ("body", "index", "more"),
    [
        ("y = Gather<axis = 1>(x, i)", [4, 5], {}),
        ("y = Gather<axis = 1>(x, i)", [-6], {}),
        ("y = GatherND(x, i)", [[0, 4], [4, 0]], {}),
        ("y = GatherElements<axis = 0>(x, i)", np.full((1, 5), 7), {}),
        ("y = ScatterElements<axis = 0>(x, i, u)", np.full((2, 5), -5), {"u": TEN}),
        ("y = ScatterND(x, i, u)", [[1], [-5]], {"u": TEN}),
    ],
)
def test_constant_indices_outside(body, index, more):
    with pytest.raises(ModelError, match=r"node \S* \(\w+\): index -?[4-7] is outside of the"):
        refuse(body, i=np.asarray(index, np.int64), **more)


@pytest.mark.parametrize(
    ("body", "shape", "more"),
    [
        ("y = GatherElements<axis = 0>(x, i)", (2, 6), {}),
        ("y = ScatterElements<axis = 0>(x, i, u)", (2, 4), {"u": TEN}),
        ("y = ScatterND(x, i, u)", (3, 1), {"u": TEN}),
    ],
)
def test_shapes_that_lead_outside(body, shape, more):
    with pytest.raises(ModelError, match="which don't belong together"):
        refuse(body, i=np.zeros(shape, np.int64), **more)


def test_ends_of_the_axis_are_inside():
    refuse("y = Gather<axis = 1>(x, i)", i=np.array([-5, 4], np.int64))


@pytest.mark.parametrize(
    ("attributes", "weights", "says"),
    [
        ("group = 0", (4, 4, 1, 1), "0 groups"),
        ("group = -1", (4, 4, 1, 1), "-1 groups"),
        ("group = 1000000000", (4, 4, 1, 1), "1000000000 groups"),
        ("group = 4", (6, 1, 1, 1), "4 groups"),
        ("strides = [0, 1]", (4, 4, 1, 1), "strides [0, 1]"),
        ("kernel_shape = [3, 3]", (4, 4, 1, 1), "kernel_shape [3, 3]"),
        ("pads = [0, 0, 0, 0]", (4, 4, 1, 9), "a window [1, 9] for an input [1, 4, 8, 8] (spans [1, 9], of [8, 8]"),
        ("pads = [1, 0, 0, 0], dilations = [3, 1]", (4, 4, 4, 1), "(spans [10, 1], of [9, 8] with its padding)"),
    ],
)
def test_layers_that_do_not_fit(attributes, weights, says):
    conv = gs.Node("Conv", "conv", {}, [gs.Variable("x", np.float32, [1, 4, 8, 8])], [gs.Variable("y", np.float32)])
    text = f"g (float[1,4,8,8] x) => (float y) {{ y = Conv<{attributes}>(x, w) }}"
    conv.attrs = gs.import_onnx(model(text, w=np.zeros(weights, np.float32))).nodes[0].attrs
    conv.inputs.append(gs.Constant("w", np.zeros(weights, np.float32)))
    conv.outputs[0].shape = [1, weights[0], 8, 8]
    with pytest.raises(ModelError, match=re.escape(says)):
        refuse_misfits(gs.Graph([conv]), PassLog())
