"""Damage by structure: types, shapes, attributes, edges, nodes, constants, opsets, scales, zero points, declarations,
and nodes that ask for too much or read where their data says."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.attack.kinds import Structural, registry
from tests.attack.kinds import tensors as _tensors

DAMAGE: dict[str, Structural] = {}
kind = registry(DAMAGE)

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**63))
REALS = (0.0, -1.0, 1e-45, 1e-40, 1e-20, 1e20, 3e38, float("inf"), float("-inf"), float("nan"))
OPERATORS = (
    "Relu", "Sigmoid", "Neg", "Sqrt", "Log", "Exp", "Add", "Mul", "Div", "Sub", "MatMul", "Gemm", "Conv", "MaxPool",
    "Concat", "Reshape", "Transpose", "Gather", "Softmax", "ReduceMean", "Flatten", "GlobalAveragePool", "Identity",
    "QuantizeLinear", "DequantizeLinear", "Clip", "Squeeze", "Expand", "ArgMax", "Cast", "BatchNormalization", "Where",
)  # fmt: skip


@kind
def dtypes(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another element type, of a tensor or of a declaration."""
    to = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 17, 21, 22, 99))
    if rng.random() < 0.5:
        tensor = rng.choice(_tensors(model))
        tensor.data_type = to
        return f"{tensor.name} is {to}"
    value = rng.choice([*model.graph.input, *model.graph.output])
    value.type.tensor_type.elem_type = to
    return f"{value.name} is {to}"


@kind
def shapes(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another dimension, of a tensor or of a declaration."""
    size = rng.choice((0, 1, 2, 3, 5, 16, 64, 255, -1, 10**6, 5 * 10**8, 2**31, 2**62))
    if rng.random() < 0.3:
        tensor = rng.choice([one for one in _tensors(model) if one.dims])
        at = rng.randrange(len(tensor.dims))
        tensor.dims[at] = size
        return f"{tensor.name}[{at}] = {size}"
    value = rng.choice([*model.graph.input, *model.graph.output, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    way = rng.choice(("set", "set", "set", "symbol", "drop", "add"))
    if way == "add":
        dims.add(dim_value=size)
    elif way == "drop":
        del dims[rng.randrange(len(dims))]
    else:
        dim = dims[rng.randrange(len(dims))]
        if way == "set":
            dim.dim_value = size
        else:
            dim.dim_param = "N"
    return f"{way} {value.name} {size}"


@kind
def attributes(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another value of an attribute, or none."""
    node = rng.choice([one for one in model.graph.node if one.attribute])
    one = rng.choice(node.attribute)
    number = rng.choice(NUMBERS)
    if rng.random() < 0.15:
        node.attribute.remove(one)
        return f"{node.op_type} without {one.name}"
    if one.type == onnx.AttributeProto.INT:
        one.i = number
    elif one.type == onnx.AttributeProto.FLOAT:
        one.f = rng.choice(REALS)
    elif one.type == onnx.AttributeProto.STRING:
        one.s = rng.choice((b"", b"SAME_UPPER", b"VALID", b"nearest", b"cubic", b"\xff", b"constant"))
    elif one.type == onnx.AttributeProto.INTS:
        way = rng.choice(("set", "set", "drop", "add"))
        if way == "set":
            one.ints[rng.randrange(len(one.ints))] = number
        elif way == "drop":
            del one.ints[rng.randrange(len(one.ints))]
        else:
            one.ints.append(number)
    elif one.type == onnx.AttributeProto.TENSOR:
        _set_values(one.t, rng)
    return f"{node.op_type}.{one.name}"


@kind
def edges(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another tensor in the place of one that a node reads, or none."""
    node = rng.choice([one for one in model.graph.node if one.input])
    at = rng.randrange(len(node.input))
    way = rng.choice(("other", "other", "drop", "swap", "repeat", "cycle"))
    names = [one.name for one in (*model.graph.input, *model.graph.initializer)]
    names += [name for one in model.graph.node for name in one.output]
    if way == "other":
        node.input[at] = rng.choice(names)
    elif way == "drop":
        del node.input[at]
    elif way == "swap":
        to = rng.randrange(len(node.input))
        node.input[at], node.input[to] = node.input[to], node.input[at]
    elif way == "repeat":
        node.input.append(node.input[at])
    else:
        node.input[at] = rng.choice(node.output)
    return f"{way} input {at} of {node.op_type}"


@kind
def nodes(model: onnx.ModelProto, rng: random.Random) -> str:
    """A node gone, twice, elsewhere, or of another operator."""
    at = rng.randrange(len(model.graph.node))
    node = model.graph.node[at]
    way = rng.choice(("remove", "bypass", "operator", "operator", "repeat", "move", "outputs"))
    if way in ("remove", "bypass"):
        if way == "bypass":
            for reader in model.graph.node:
                for index, name in enumerate(reader.input):
                    if name in node.output:
                        reader.input[index] = node.input[0]
        del model.graph.node[at]
    elif way == "operator":
        node.op_type = rng.choice(OPERATORS)
    elif way == "repeat":
        copy = model.graph.node.add()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.output):
            copy.output[index] = f"{name}_again"
    elif way == "move":
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        del model.graph.node[at]
        model.graph.node.insert(0, copy)
    else:
        node.output.append(rng.choice(("", "extra")))
    return f"{way} {node.op_type}"


@kind
def initializers(model: onnx.ModelProto, rng: random.Random) -> str:
    """Other values of a constant."""
    tensor = rng.choice(_tensors(model))
    return f"{tensor.name} {_set_values(tensor, rng)}"


def _set_values(tensor: TensorProto, rng: random.Random) -> str:
    values = numpy_helper.to_array(tensor).copy()
    way = rng.choice(("zero", "extreme", "random", "one", "one", "longer", "empty"))
    if way == "zero":
        values[...] = 0
    elif way == "extreme":
        values[...] = _extreme(values.dtype, rng)
    elif way == "random":
        raw = np.frombuffer(rng.randbytes(values.nbytes), np.uint8)
        values = raw.view(values.dtype).reshape(values.shape).copy()
    elif way == "one" and values.size:
        values.reshape(-1)[rng.randrange(values.size)] = _extreme(values.dtype, rng)
    elif way == "longer":
        values = np.concatenate([values.reshape(-1)] * 2)
    else:
        values = values.reshape(-1)[:0]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return way


def _extreme(dtype: np.dtype, rng: random.Random) -> object:
    if dtype.kind == "f":
        return dtype.type(rng.choice(REALS))
    if dtype.kind == "b":
        return True
    limits = np.iinfo(dtype)
    return rng.choice([one for one in (*NUMBERS, limits.min, limits.max) if limits.min <= one <= limits.max])


@kind
def scales(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another scale or zero point of a quantizer."""
    node = rng.choice([one for one in model.graph.node if one.op_type in ("QuantizeLinear", "DequantizeLinear")])
    at = rng.choice((1, 1, 2))
    name = node.input[at]
    tensors = {one.name: one for one in model.graph.initializer}
    made = {one.output[0]: one for one in model.graph.node if one.op_type == "Constant"}
    tensor = tensors[name] if name in tensors else made[name].attribute[0].t if name in made else None
    if tensor is None:
        raise ValueError(name)
    values = numpy_helper.to_array(tensor).copy()
    way = rng.choice(("all", "all", "one", "vector", "noise"))
    if way == "all":
        values = np.full_like(values, _extreme(values.dtype, rng))
    elif way == "one":
        values.reshape(-1)[rng.randrange(values.size)] = _extreme(values.dtype, rng)
    elif way == "vector":
        values = np.resize(values, rng.choice((1, 2, 3, 16)))
    elif values.dtype.kind == "f":
        values = (values * np.float32(2.0 ** rng.randint(-12, 12))).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return f"{node.op_type} {at} {way} {values.reshape(-1)[:1]}"


@kind
def opsets(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another opset, IR version or domain."""
    way = rng.choice(("version", "version", "ir", "domain"))
    if way == "version":
        model.opset_import[0].version = rng.choice((1, 5, 7, 9, 10, 11, 12, 13, 17, 18, 19, 21, 23, 99, -1))
    elif way == "ir":
        model.ir_version = rng.choice((0, 1, 3, 4, 8, 10, 13, 99))
    else:
        rng.choice(model.graph.node).domain = rng.choice(("com.microsoft", "ai.onnx", "ai.onnx.ml", "my.own"))
    return way


@kind
def declarations(model: onnx.ModelProto, rng: random.Random) -> str:
    """Names, outputs and values in the middle."""
    way = rng.choice(("middle", "rename", "input", "lose output", "value info", "twice"))
    graph = model.graph
    if way == "middle":
        name = rng.choice([name for node in graph.node for name in node.output if name])
        graph.output.append(helper.make_empty_tensor_value_info(name))
    elif way == "rename":
        node = rng.choice(graph.node)
        node.output[0] = rng.choice(("", "x", "\x00", "a" * 5000, "y\n"))
    elif way == "input":
        graph.input.append(helper.make_tensor_value_info("unused", rng.choice((1, 7, 9, 8)), [1, 3]))
    elif way == "lose output":
        del graph.output[rng.randrange(len(graph.output))]
    elif way == "value info":
        name = rng.choice([name for node in graph.node for name in node.output if name])
        graph.value_info.append(helper.make_tensor_value_info(name, rng.choice((1, 3, 7)), [rng.choice((0, 1, 2**40))]))
    else:
        graph.node.add().CopyFrom(rng.choice(graph.node))
    return way


@kind
def demands(model: onnx.ModelProto, rng: random.Random) -> str:
    """A node in the middle that asks for much, reads where data says, or computes what is not finite."""
    graph = model.graph
    constants = {one.name for one in graph.initializer} | {n for one in graph.node if not one.input for n in one.output}
    data = [at for at, one in enumerate(graph.node) if one.input and one.input[0] not in constants]
    at = rng.choice(data)
    node = graph.node[at]
    slot = 0
    source, result = node.input[slot], f"inserted{len(graph.node)}"
    way, made = rng.choice(_demands(source, result, rng))
    for one in made:
        if isinstance(one, TensorProto):
            graph.initializer.append(one)
        else:
            graph.node.insert(at, one)
            at += 1
    node.input[slot] = result
    return f"{way} in front of {node.op_type}"


def _demands(source: str, result: str, rng: random.Random) -> Sequence[tuple[str, list[onnx.NodeProto | TensorProto]]]:
    """What may be put between a tensor and its reader: a name, nodes and constants."""

    def constant(name: str, value: object, dtype: object = np.int64) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype), name)  # type: ignore[call-overload]

    make = helper.make_node
    a, b, c = (f"{result}_{part}" for part in "abc")
    number, large = rng.choice(NUMBERS), rng.choice((10**3, 10**6, 10**9, 10**12, 2**62))
    doubled = [make("Add", [f"{result}{i}" if i else source] * 2, [f"{result}{i + 1}"]) for i in range(24)]
    far, mode = constant(a, [large, 1, 1, 1]), rng.choice(("constant", "reflect", "edge"))
    return (
        ("Expand", [far, make("Expand", [source, a], [result])]),
        ("Tile", [far, make("Tile", [source, a], [result])]),
        ("ConstantOfShape", [
            constant(a, [large]), make("ConstantOfShape", [a], [b]), make("ReduceSum", [b], [c], keepdims=0),
            make("Add", [source, c], [result]),
        ]),
        ("Gather of data", [
            make("Cast", [source], [a], to=7), constant(b, np.arange(4), np.float32), make("Gather", [b, a], [result]),
        ]),
        ("Gather of a constant", [constant(a, [number]), make("Gather", [source, a], [result])]),
        ("integer Div", [
            make("Cast", [source], [a], to=6), make("Div", [a, a], [b]), make("Cast", [b], [result], to=1),
        ]),
        ("Log", [make("Log", [source], [result])]),
        ("Div by itself", [make("Div", [source, source], [result])]),
        ("sums of sums", [*doubled, make("Identity", [f"{result}24"], [result])]),
        ("Concat of many", [make("Concat", [source] * 500, [result], axis=0)]),
        ("NonZero", [make("NonZero", [source], [result])]),
        ("TopK", [constant(a, [number]), make("TopK", [source, a], [result, b])]),
        ("Reshape", [constant(a, [number, -1]), make("Reshape", [source, a], [result])]),
        ("Slice", [
            constant(a, [number]), constant(b, [rng.choice(NUMBERS)]), make("Slice", [source, a, b], [result]),
        ]),
        ("Pad", [
            constant(a, [rng.choice(NUMBERS) for _ in range(8)]), make("Pad", [source, a], [result], mode=mode),
        ]),
    )  # fmt: skip
