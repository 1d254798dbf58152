"""Changes that leave a model valid, so that it gets as far as kernels and numbers: other values, grids and sizes, what
attributes may be, legal operators put in, other opsets, other spellings of the same graph."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnx.version_converter
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.attack.chain import Chain, float_tensors, opset_of
from tests.attack.inserts import INSERTS
from tests.attack.kinds import Structural, registry

LEGAL: dict[str, Structural] = {}
kind = registry(LEGAL)

_FACTORS = (0.0, 1e-6, 0.01, 0.5, 2.0, 100.0, 1e6, -1.0)
_NAMES = ("π", "a b", "x/y:0", "n" * 300, "0", "%s", "end.", "-o", "тензор", 'quo"te')


@kind
def operators(model: onnx.ModelProto, rng: random.Random) -> str:
    """Legal operators behind a tensor, which keep its shape."""
    places = float_tensors(model)
    told = []
    for number in range(rng.choice((1, 1, 2, 3))):
        at, source, shape = rng.choice(places)
        chain = Chain(rng, opset_of(model), f"in{len(model.graph.node)}_{number}")
        way = rng.choice(sorted(INSERTS))
        result = INSERTS[way](chain, source, shape)
        if source in {one.name for one in model.graph.output}:  # what leaves there leaves behind the chain
            at = len(model.graph.node)
            chain.join(model.graph, at, source, result)
            _leave(model, source, result)
        else:
            shift = len(chain.nodes)
            chain.join(model.graph, at, source, result)
            places = [(place + shift * (place >= at), name, dims) for place, name, dims in places]
        told.append(f"{way} behind {source}")
    return ", ".join(told)


def _leave(model: onnx.ModelProto, source: str, result: str) -> None:
    for one in model.graph.output:
        if one.name == source:
            one.name = result


@kind
def two_tensors(model: onnx.ModelProto, rng: random.Random) -> str:
    """Arithmetic of two tensors of one shape that the model has."""
    places = float_tensors(model)
    at, source, shape = rng.choice(places)
    outputs = {one.name for one in model.graph.output}
    others = [name for place, name, dims in places if place <= at and dims == shape and name != source]
    if source in outputs or not others:
        raise ValueError
    chain = Chain(rng, opset_of(model), f"two{len(model.graph.node)}")
    operator = rng.choice(("Add", "Sub", "Mul", "Max", "Min", "Div", "Sum", "Mean"))
    other = rng.choice(others)
    chain.join(model.graph, at, source, chain.op(operator, source, other))
    return f"{operator} of {source} and {other}"


def _weights(model: onnx.ModelProto) -> list[TensorProto]:
    grids = {name for node in model.graph.node if "Quant" in node.op_type for name in node.input[1:]}
    made = {one.t.name: one.t for node in model.graph.node for one in node.attribute if one.HasField("t")}
    return [
        one for one in [*model.graph.initializer, *made.values()]
        if one.data_type in (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
        and one.name not in grids and np.prod(one.dims) > 0
    ]  # fmt: skip


@kind
def weights(model: onnx.ModelProto, rng: random.Random) -> str:
    """Other weights and biases: larger, smaller, one channel gone, at the ends of their type."""
    tensor = rng.choice(_weights(model))
    values = numpy_helper.to_array(tensor).copy()
    way = rng.choice(("scaled", "scaled", "channel", "one", "constant", "shuffled"))
    channel = (rng.randrange(len(values)),) if values.ndim else ()
    if values.dtype.kind != "f":
        info = np.iinfo(values.dtype)
        ends = (0, info.min, info.max)
        if way in ("scaled", "constant"):
            values[...] = rng.choice(ends)
        elif way == "channel":
            values[channel] = rng.choice(ends)
        elif way == "one":
            values.reshape(-1)[rng.randrange(values.size)] = rng.choice(ends)
    elif way == "scaled":
        values = (values * np.float32(rng.choice(_FACTORS))).astype(values.dtype)
    elif way == "channel":
        values[channel] = values[channel] * np.float32(rng.choice(_FACTORS))
    elif way == "one":
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice((1e-30, 1e-3, 10.0, 1e6, -1e12))
    elif way == "constant":
        values[...] = rng.choice((0.0, 1.0, -0.01, 1e-20))
    if way == "shuffled":
        values = np.random.default_rng(rng.getrandbits(32)).permutation(values.reshape(-1)).reshape(values.shape)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return f"{tensor.name} {way}"


@kind
def grids(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another legal scale or zero point, for all that share it."""
    nodes = [one for one in model.graph.node if one.op_type in ("QuantizeLinear", "DequantizeLinear")]
    node = rng.choice(nodes)
    at = rng.choice([n for n in (1, 1, 2) if n < len(node.input)])
    known = {one.name: one for one in model.graph.initializer}
    known |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.attribute}
    tensor = known.get(node.input[at])
    if tensor is None:
        raise ValueError
    values = numpy_helper.to_array(tensor).copy()
    if values.dtype.kind == "f":
        way = "scale"
        factor = 2.0 ** rng.randint(-6, 6) if rng.random() < 0.7 else rng.choice((1e-9, 1e-5, 1e5, 1e12, 1e25))
        if rng.random() < 0.3 and values.size > 1:
            values.reshape(-1)[rng.randrange(values.size)] *= np.float32(factor)
        else:
            values = (values * np.float32(factor)).astype(values.dtype)
    else:
        way = "zero point"
        info = np.iinfo(values.dtype)
        values[...] = rng.choice((info.min, info.max, 0, rng.randint(max(info.min, -128), min(info.max, 255))))
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return f"{way} {node.input[at]}"


@kind
def legal_attributes(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another value that the operator allows."""
    node = rng.choice(
        [one for one in model.graph.node if one.op_type not in ("QuantizeLinear", "DequantizeLinear", "Constant")]
    )

    def drop(name: str) -> None:
        for one in list(node.attribute):
            if one.name == name:
                node.attribute.remove(one)

    def put(name: str, value: object) -> str:
        drop(name)
        node.attribute.append(helper.make_attribute(name, value))
        return f"{node.op_type}.{name} = {value}"

    held = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type in ("Conv", "MaxPool", "AveragePool", "ConvTranspose"):
        pads = list(held.get("pads", []))
        way = rng.choice(("pads", "dilated", "stride", "ceil", "auto"))
        if way == "pads" and pads:  # the same size in all, but another place
            half = len(pads) // 2
            axis = rng.randrange(half)
            total = pads[axis] + pads[half + axis]
            pads[axis] = rng.randint(0, total)
            pads[half + axis] = total - pads[axis]
            return put("pads", pads)
        if way == "dilated" and held.get("kernel_shape") and node.op_type in ("Conv", "MaxPool"):
            put("pads", [n - 1 for n in held["kernel_shape"]] * 2)
            return put("dilations", [2] * len(held["kernel_shape"]))
        if way == "stride" and held.get("kernel_shape"):
            return put("strides", [rng.choice((1, 2, 3)) for _ in held["kernel_shape"]])
        if way == "auto" and held.get("kernel_shape"):
            drop("pads")
            return put("auto_pad", rng.choice(("VALID", "SAME_UPPER", "SAME_LOWER")))
        if "Pool" in node.op_type:
            return put("ceil_mode", rng.randrange(2)) if way == "ceil" else put("count_include_pad", 1)
        raise ValueError
    reals = {
        "BatchNormalization": "epsilon",
        "LeakyRelu": "alpha",
        "Elu": "alpha",
        "HardSigmoid": "alpha",
        "Gemm": "alpha",
    }
    if node.op_type in reals:
        return put(reals[node.op_type], rng.choice((0.0, 1e-6, 0.1, 0.2, 1.0, 10.0, -1.0)))
    if node.op_type in ("Softmax", "Concat", "ReduceMean"):
        return (
            put("axis", rng.choice((-1, 0, 1))) if node.op_type != "ReduceMean" else put("keepdims", rng.randrange(2))
        )
    if node.op_type == "Clip" and len(node.input) > 1:
        node.input[rng.randrange(1, len(node.input))] = ""
        return "Clip without a bound"
    raise ValueError


@kind
def another_opset(model: onnx.ModelProto, rng: random.Random) -> str:
    """Converted to another version of ONNX's operators."""
    version = rng.choice((11, 13, 15, 17, 18, 19, 20, 21, 22, 23))
    try:
        model.CopyFrom(onnx.version_converter.convert_version(model, version))
    except Exception as error:  # it has no base of its own, and knows not every step
        raise ValueError(version) from error
    return str(version)


@kind
def spelling(model: onnx.ModelProto, rng: random.Random) -> str:
    """The same graph, written down in another way."""
    graph = model.graph
    way = rng.choice(
        ("names", "tensor", "constants", "initializers", "order", "unused", "anonymous", "doc", "typed", "domain")
    )
    if way in ("names", "tensor"):
        known = sorted({name for node in graph.node for name in (*node.input, *node.output) if name})
        chosen = known if way == "names" else [rng.choice(known)]
        _rename(model, {old: f"{rng.choice(_NAMES)}{index}" for index, old in enumerate(chosen)})
    elif way == "constants":
        inputs = {one.name for one in graph.input}
        chosen_ = [one for one in graph.initializer if one.name not in inputs]
        for tensor in chosen_:
            graph.initializer.remove(tensor)
            graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    elif way == "initializers":
        for node in [one for one in graph.node if one.op_type == "Constant" and one.attribute[0].name == "value"]:
            tensor = TensorProto.FromString(node.attribute[0].t.SerializeToString())
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            graph.node.remove(node)
    elif way == "order":
        _reorder(graph, rng)
    elif way == "unused":
        graph.initializer.append(numpy_helper.from_array(np.zeros((3, 0, 2), np.float32), "unused_constant"))
        graph.node.append(helper.make_node("Relu", [graph.node[-1].output[0]], ["unused_result"]))
    elif way == "anonymous":
        for node in graph.node:
            node.name = rng.choice(("", "same"))
    elif way == "doc":
        graph.doc_string = model.doc_string = "x" * 10**5
        model.metadata_props.add(key="a", value="b" * 1000)
    elif way == "typed":
        model.graph.CopyFrom(onnx.shape_inference.infer_shapes(model).graph)
    else:
        model.opset_import.append(helper.make_opsetid(rng.choice(("ai.onnx.ml", "com.microsoft", "nobody.knows")), 1))
    return way


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    if any(
        one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for node in model.graph.node for one in node.attribute
    ):
        raise ValueError
    for node in model.graph.node:
        node.input[:] = [names.get(one, one) for one in node.input]
        node.output[:] = [names.get(one, one) for one in node.output]
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)


def _reorder(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Any order in which each node comes behind those it reads."""
    waiting = list(graph.node)
    made_by = {name for node in waiting for name in node.output}
    del graph.node[:]
    done: set[str] = set()
    while waiting:
        ready = [one for one in waiting if all(name not in made_by or name in done for name in one.input)]
        if not ready or any(one.type == AttributeProto.GRAPH for node in ready for one in node.attribute):
            graph.node.extend(waiting)
            return
        node = rng.choice(ready)
        waiting.remove(node)
        done.update(node.output)
        graph.node.append(node)


@kind
def sizes(model: onnx.ModelProto, rng: random.Random) -> str:
    """Another batch, or another picture."""
    constants = {one.name for one in model.graph.initializer}
    value = rng.choice([one for one in model.graph.input if one.name not in constants])
    dims = value.type.tensor_type.shape.dim
    at = 0 if rng.random() < 0.6 else rng.randrange(len(dims))
    size = rng.choice((1, 2, 3, 7)) if at == 0 else rng.choice((1, 2, 16, 31, 33, 48))
    dims[at].dim_value = size
    del model.graph.value_info[:]
    for out in model.graph.output:
        out.type.tensor_type.ClearField("shape")
    return f"{value.name}[{at}] = {size}"


@kind
def results(model: onnx.ModelProto, rng: random.Random) -> str:
    """Tensors in the middle become outputs, too."""
    for _, name, _ in rng.sample(float_tensors(model), rng.choice((1, 2, 5))):
        if name not in {one.name for one in (*model.graph.output, *model.graph.input)}:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return ""


@kind
def unquantized(model: onnx.ModelProto, rng: random.Random) -> str:
    """Some activations without their pair of quantizers."""
    quantized = {one.output[0]: one for one in model.graph.node if one.op_type == "QuantizeLinear"}
    pairs = [one for one in model.graph.node if one.op_type == "DequantizeLinear" and one.input[0] in quantized]
    gone = rng.sample(pairs, rng.choice((1, 2, max(1, len(pairs)))))
    for node in gone:
        node.CopyFrom(
            helper.make_node("Identity", [quantized[node.input[0]].input[0]], list(node.output), name=node.name)
        )
    return f"{len(gone)} of {len(pairs)}"
