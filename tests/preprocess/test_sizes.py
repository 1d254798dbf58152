"""Nothing takes memory whose size is not known before."""

import numpy as np
import pytest

from drpai_qat.core.errors import ModelError
from drpai_qat.core.memory_limit import MemoryLimit
from preprocess import preprocess
from preprocess.constants import evaluate_constants
from preprocess.opening import open_graph
from preprocess.passlog import PassLog
from tests.preprocess.building import model

GRID = {"s": np.float32(0.05), "z": np.uint8(90)}
PAIR = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  "
MEGABYTE = MemoryLimit(2**20)


def evaluated(body, **constants):
    log = PassLog(memory=MEGABYTE)
    return evaluate_constants(open_graph(model(f"g (float[4] x) => (float y) {{ {body} }}", **constants), log), log)


@pytest.mark.parametrize(
    "body",
    [
        "e = ConstantOfShape (n)  r = ReduceSum <keepdims = 0> (e)  y = Add (x, r)",
        # A size that is itself computed, by an operator that shape inference does not evaluate.
        "m = Mod (n, k)  e = ConstantOfShape (m)  r = ReduceSum <keepdims = 0> (e)  y = Add (x, r)",
        "e = Expand (one, n)  r = ReduceMax <keepdims = 0> (e)  y = Add (x, r)",
        "a = Reshape (wide, column)  e = Mul (a, wide)  r = ReduceSum <keepdims = 0> (e)  y = Add (x, r)",
    ],
)
def test_constants_are_not_evaluated_beyond_the_limit(body):
    constants = {
        "n": np.array([10**9]), "k": np.array([2 * 10**9]), "one": np.ones(1, np.float32),
        "wide": np.ones(2000, np.float32), "column": np.array([-1, 1]),
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"evaluating constants, up to node .* takes \d.*, and 1\.0 MB may be taken"):
        evaluated(body, **constants)


def test_sizes_that_depend_on_values_are_evaluated_step_by_step():
    body = "m = Mod (n, k)  e = ConstantOfShape (m)  z = NonZero (one)  f = Cast <to = 1> (z)  g = Mul (e, f)"
    graph = evaluated(f"{body}  y = Add (x, g)", n=np.array([9]), k=np.array([5]), one=np.ones(4, np.float32))
    assert [node.op for node in graph.nodes] == ["Add"]
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].values, np.zeros((1, 4)))


@pytest.mark.parametrize(("batch", "fits"), [(10, True), (10_000, False)])
def test_a_network_is_held_against_the_limit(batch, fits):
    source = model(f"g (float[{batch},16] x) => (float[{batch},16] y) {{ {PAIR} y = Relu (d) }}", **GRID)
    if fits:
        preprocess(source, "pytorch", MEGABYTE)
    else:
        with pytest.raises(ModelError, match="compiling it, by the size of its tensors around node"):
            preprocess(source, "pytorch", MEGABYTE)
