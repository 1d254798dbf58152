"""Constant folding: everything that depends on constants alone is evaluated once, by onnxruntime.

QuantizeLinear and DequantizeLinear stay: they carry the trained ranges, and have passes of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs

from drpai_qat.runtimes.onnxruntime import Reference
from preprocess.custom_quantizers import CUSTOM_QUANTIZERS
from preprocess.fake_quantize import FAKE_QUANT_NODES
from preprocess.passlog import PassLog
from preprocess.qonnx import QUANT
from preprocess.sizes import inferred_bytes, peak
from preprocess.surgery import Names

_KEPT = (
    "QuantizeLinear", "DequantizeLinear", *FAKE_QUANT_NODES, *QUANT, *CUSTOM_QUANTIZERS,
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
)  # fmt: skip
_FEW_READERS = 4
_SMALL = 4096


def fold_constants(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every node whose inputs are all constants by its value, and If nodes on constants by the branch taken."""
    evaluate_constants(graph, log)
    if any(node.op == "If" and isinstance(node.inputs[0], gs.Constant) for node in graph.nodes):
        graph.fold_constants(fold_shapes=False, recurse_functions=False)
        graph.cleanup().toposort()
    for node in graph.nodes:
        if node.op != "Loop" and next(node.subgraphs(), None) is not None:
            log.note(node.name, f"{node.op} is decided at run time: its branches are left unchanged")
    return graph


def unshare_small_constants(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give each reader of a widely shared parameter (a zero point of the whole network) a copy.

    graphsurgeon searches a tensor's readers one by one, comparing nodes by content, whenever one goes away: with n
    readers of one constant, every pass would take n * n steps.
    """
    names = Names(graph)
    for tensor in list(graph.tensors().values()):
        if not isinstance(tensor, gs.Constant) or len(tensor.outputs) <= _FEW_READERS:
            continue
        if tensor.values.size > _SMALL:
            continue
        shared = list(tensor.outputs)
        list.clear(tensor.outputs)  # bypasses the slow list that keeps both sides in step
        for node in shared:
            for index, one in enumerate(node.inputs):
                if one is tensor:
                    copy = gs.Constant(names(tensor.name), tensor.values)
                    list.__setitem__(node.inputs, index, copy)
                    list.append(copy.outputs, node)
    return graph


def evaluate_constants(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Evaluate all constant expressions, by onnxruntime.

    In one session, unless a size is known only when what it depends on is evaluated: nothing runs whose size is not
    known, as it may be that of a terabyte.

    Raises: ModelError: onnxruntime cannot evaluate one of them, or it takes more memory than there is.
    """
    _lower_constant_nodes(graph)
    graph.cleanup().toposort()
    while True:
        nodes, frontier = _constant_nodes(graph)
        if not frontier:
            return graph
        model = gs.export_onnx(_part(graph, nodes, frontier), do_type_check=False)
        sizes = inferred_bytes(onnx.ModelProto.FromString(model.SerializeToString()))
        sized = _of_known_size(nodes, sizes)
        if len(sized) < len(nodes):
            nodes = sized
            frontier = _read_elsewhere(nodes)
            model = gs.export_onnx(_part(graph, nodes, frontier), do_type_check=False)
        by_tensor = {id(one): sizes.get(one.name, 0) for node in nodes for one in node.outputs}
        most, where = peak(nodes, by_tensor, {id(one) for one in frontier})
        log.memory.require(most + sum(by_tensor[id(one)] for one in frontier), f"evaluating constants, up to {where},")
        values = Reference(model, "a constant expression", threads=1).run({})
        for node in nodes:
            node.outputs.clear()
        for tensor in frontier:
            tensor.to_constant(values[tensor.name])
        graph.cleanup()


def _part(graph: gs.Graph, nodes: list[gs.Node], frontier: list[gs.Tensor]) -> gs.Graph:
    return gs.Graph(nodes, [], frontier, name="constants", opset=graph.opset, ir_version=graph.ir_version)


def _of_known_size(nodes: list[gs.Node], sizes: Mapping[str, int]) -> list[gs.Node]:
    """The nodes that depend on none whose size inference does not tell.

    Such a node is one of them if all it reads is known: its size depends on values then (NonZero), and is no larger.
    """
    waiting: set[int] = set()
    found = []
    for node in nodes:
        computed = [one for one in node.inputs if not one.is_empty() and not isinstance(one, gs.Constant)]
        unknown = any(one.name not in sizes for one in node.outputs if not one.is_empty())
        if any(id(one) in waiting for one in computed) or (unknown and computed):
            waiting.update(id(one) for one in node.outputs)
        else:
            found.append(node)
    return found


def _lower_constant_nodes(graph: gs.Graph) -> None:
    """Turn Constant nodes into initializers without reading their values."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        value = node.attrs.get("value")
        if node.op == "Constant" and isinstance(value, gs.Constant) and id(node.outputs[0]) not in outputs:
            output = node.outputs[0]
            node.outputs.clear()
            output.to_constant(value._values)


def _constant_nodes(graph: gs.Graph) -> tuple[list[gs.Node], list[gs.Tensor]]:
    """Nodes that depend on constants alone, in order, and those of their outputs that others read."""
    known: set[int] = set()
    nodes: list[gs.Node] = []
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op in _KEPT or any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            continue
        if any(id(output) in outputs for output in node.outputs):
            continue
        if all(isinstance(one, gs.Constant) or one.is_empty() or id(one) in known for one in node.inputs):
            known.update(id(output) for output in node.outputs)
            nodes.append(node)
    return nodes, _read_elsewhere(nodes)


def _read_elsewhere(nodes: list[gs.Node]) -> list[gs.Tensor]:
    """Those outputs of nodes that others read."""
    inside = {id(node) for node in nodes}
    return [
        output
        for node in nodes
        for output in node.outputs
        if not output.is_empty() and any(id(reader) not in inside for reader in output.outputs)
    ]
