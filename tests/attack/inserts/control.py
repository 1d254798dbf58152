"""Comparisons, order, types, and what runs other graphs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.attack.chain import Chain, Shape
from tests.attack.inserts.register import an_axis, insert, needs


@insert
def compared(chain: Chain, x: str, _shape: Shape) -> str:
    """A comparison that chooses, or becomes a number."""
    operator = chain.rng.choice(("Greater", "Less", *(["GreaterOrEqual", "LessOrEqual"] if chain.opset >= 12 else [])))
    truth = chain.op(operator, x, chain.constant(chain.rng.choice((0.0, 0.5, -1.0))))
    truth = chain.rng.choice((truth, chain.op("Not", truth), chain.op("Or", truth, chain.op("IsNaN", x))))
    if chain.rng.random() < 0.5:
        return chain.op("Mul", x, chain.op("Cast", truth, to=TensorProto.FLOAT))
    return chain.op("Where", truth, x, chain.constant(chain.rng.choice((0.0, -1.0))))


@insert
def ordered(chain: Chain, x: str, shape: Shape) -> str:
    """Sorted, summed up, or with the place of the largest."""
    axis = an_axis(chain, shape)
    way = chain.rng.choice(("TopK", "CumSum", "ArgMax", "ArgMin", "OneHot"))
    needs(chain.opset >= 12)
    if way == "TopK":
        return chain.make(
            "TopK", x, chain.indices([shape[axis]]), outputs=2, axis=axis, largest=chain.rng.randrange(2)
        )[0]
    if way == "CumSum":
        return chain.op(
            "CumSum", x, chain.indices(axis), reverse=chain.rng.randrange(2), exclusive=chain.rng.randrange(2)
        )
    if way == "OneHot":
        place = chain.op("ArgMax", x, axis=axis, keepdims=0)
        return chain.op(
            "Mul", x, chain.op("OneHot", place, chain.indices(shape[axis]), chain.constant([0, 1]), axis=axis)
        )
    place = chain.op(way, x, axis=axis, keepdims=1)
    return chain.op("Add", x, chain.op("Cast", place, to=TensorProto.FLOAT))


@insert
def cast(chain: Chain, x: str, _shape: Shape) -> str:
    """Another type, and back."""
    there = chain.rng.choice(
        (TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL)
    )
    return chain.op("Cast", chain.op("Cast", x, to=there), to=TensorProto.FLOAT)


@insert
def recurrent(chain: Chain, x: str, shape: Shape) -> str:
    """A recurrent layer over the first axis."""
    needs(len(shape) == 3 and shape[0] <= 32 and shape[2] <= 64 and chain.opset >= 14)
    operator, gates = chain.rng.choice((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    size = shape[2]
    w, r = (chain.constant(chain.spread((1, gates * size, size), 0.2)) for _ in range(2))
    y = chain.make(operator, x, w, r, outputs=1, hidden_size=size, direction=chain.rng.choice(("forward", "reverse")))[
        0
    ]
    return chain.op("Squeeze", y, chain.indices([1]))


@insert
def sampled(chain: Chain, x: str, shape: Shape) -> str:
    """Read at given places, inside and far outside."""
    needs(len(shape) == 4 and chain.opset >= 16)
    n, _, h, w = shape
    size = chain.rng.choice((0.5, 1.0, 3.0, 1e6))
    grid = chain.constant(chain.spread((n, h, w, 2), size))
    mode = chain.rng.choice(("linear", "nearest", "cubic") if chain.opset >= 20 else ("bilinear", "nearest", "bicubic"))
    edge = chain.rng.choice(("zeros", "border", "reflection"))
    return chain.op("GridSample", x, grid, mode=mode, padding_mode=edge, align_corners=chain.rng.randrange(2))


@insert
def conditional(chain: Chain, x: str, _shape: Shape) -> str:
    """One of two branches, by a constant."""
    branches = []
    for operator in ("Relu", chain.rng.choice(("Neg", "Sigmoid", "Identity"))):
        name = chain.name()
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        branches.append(helper.make_graph([helper.make_node(operator, [x], [name])], f"branch_{name}", [], [out]))
    truth = chain.constant(chain.rng.random() < 0.5, np.bool_)
    return chain.op("If", truth, then_branch=branches[0], else_branch=branches[1])


@insert
def looped(chain: Chain, x: str, shape: Shape) -> str:
    """A loop that runs a known number of times."""
    count, going, carried, on, made = (chain.name() for _ in range(5))
    steps = [
        helper.make_node("Identity", [going], [on]),
        helper.make_node(chain.rng.choice(("Relu", "Neg", "Tanh")), [carried], [made]),
    ]
    number, truth, tensor = (TensorProto.INT64, ()), (TensorProto.BOOL, ()), (TensorProto.FLOAT, shape)
    inputs, outputs = {count: number, going: truth, carried: tensor}, {on: truth, made: tensor}
    declared = [
        [helper.make_tensor_value_info(name, *kind) for name, kind in names.items()] for names in (inputs, outputs)
    ]
    body = helper.make_graph(steps, f"body_{count}", *declared)
    times = chain.indices(chain.rng.choice((0, 1, 3, 20)))
    return chain.op("Loop", times, chain.constant(True, np.bool_), x, body=body)


@insert
def shaped(chain: Chain, x: str, _shape: Shape) -> str:
    """Arithmetic with a tensor whose size is asked of another."""
    asked = chain.op("Shape", x)
    value = helper.make_tensor("", TensorProto.FLOAT, [1], [chain.rng.choice((0.0, 1.0, -2.0))])
    if chain.rng.random() < 0.5:
        other = chain.op("ConstantOfShape", asked, value=value)
    else:
        other = chain.op("Expand", chain.constant(chain.rng.choice((0.5, -1.0))), asked)
    return chain.op("Add", x, other)


@insert
def triangular(chain: Chain, x: str, shape: Shape) -> str:
    """Half of a matrix."""
    needs(len(shape) >= 2 and chain.opset >= 14)
    return chain.op(
        "Trilu", x, chain.indices(chain.rng.choice((0, 1, -1, 100, -100, 2**40))), upper=chain.rng.randrange(2)
    )
