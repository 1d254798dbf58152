"""Loops that run a known number of times, and branches on a known condition: written out.

    Loop(m, true, state; body)   =>   body, m times, each on the state that the one before left

The condition that a body computes counts, too, where it depends on constants and on earlier steps alone (tf2onnx writes
`while i < n` for recurrent layers). What a body hands out step by step is joined.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.runtimes.onnxruntime import Reference
from preprocess.constants import evaluate_constants
from preprocess.inference_form import remove_identities
from preprocess.passlog import PassLog
from preprocess.surgery import Names, optional_input, value_of

_MOST_NODES = 20_000
"""Nodes that a loop may become."""
_ENDLESS = 2**31
"""Trip counts from here on mean that the condition decides."""


def write_out_loops(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Write out loops of a constant number of steps, so that every pass sees the dialects in their bodies."""
    if unroll_loops(graph, log):
        evaluate_constants(graph, log)  # bodies hold Constant nodes
    return graph


def unroll_loops(graph: gs.Graph, log: PassLog) -> bool:
    """Write out every such loop and branch; true if there was one."""
    taken = any(node.op == "If" and isinstance(node.inputs[0], gs.Constant) for node in graph.nodes)
    if taken:
        graph.fold_constants(fold_shapes=False, recurse_functions=False)
        graph.cleanup().toposort()
    unrolled = False
    for node in list(graph.nodes):
        if node.op != "Loop":
            continue
        steps = _unroll(graph, node)
        if steps is not None:
            log.note(node.name, f"a loop of {steps} steps is written out")
            unrolled = True
    if unrolled:
        remove_identities(graph.toposort(), log)
    return taken or unrolled


def _unroll(graph: gs.Graph, loop: gs.Node) -> int | None:
    """Put the steps of `loop` in its place; returns their number, None if it isn't known."""
    body: gs.Graph = loop.attrs["body"]
    most, going = (optional_input(loop, at) for at in (0, 1))
    count = _ENDLESS if most is None else _integer(most)
    if count is None or (going is not None and _integer(going) != 1):
        return None
    if any(next(node.subgraphs(), None) is not None for node in body.nodes):
        return None
    names, made = Names(graph), list[gs.Node]()
    states: list[gs.Tensor] = list(loop.inputs[2:])
    handed_out: list[list[gs.Tensor]] = [[] for _ in body.outputs[1 + len(states) :]]
    step = 0
    while step < count:
        if (step + 1) * max(len(body.nodes), 1) > _MOST_NODES:
            return None
        given = [gs.Constant(names("step"), np.array(step, np.int64)), gs.Constant(names("going"), np.array(True))]
        nodes, results = _copied(body, [*given, *states], names)
        made += nodes
        states = results[1 : 1 + len(states)]
        for tensors, tensor in zip(handed_out, results[1 + len(states) :], strict=True):
            tensors.append(tensor)
        step += 1
        goes_on = _known(results[0], made, graph)
        if goes_on is None:
            return None
        if not goes_on:
            break
    if not step:
        return None
    outputs = list(loop.outputs)
    for node in body.nodes:
        node.inputs.clear()  # they read tensors of the graph around
    loop.inputs.clear()
    loop.outputs.clear()
    for output, tensor in zip(outputs, states, strict=False):
        made.append(gs.Node("Identity", names(f"{loop.name}_state"), {}, [tensor], [output]))
    for output, tensors in zip(outputs[len(states) :], handed_out, strict=True):
        axes = gs.Constant(names(f"{loop.name}_axes"), np.array([0], np.int64))
        rows = [gs.Variable(names(f"{output.name}_row")) for _ in tensors]
        made += [
            gs.Node("Unsqueeze", names(f"{loop.name}_row"), {}, [tensor, axes], [row])
            for tensor, row in zip(tensors, rows, strict=True)
        ]
        made.append(gs.Node("Concat", names(f"{loop.name}_rows"), {"axis": 0}, rows, [output]))
    graph.nodes.extend(made)
    graph.cleanup().toposort()
    return step


def _copied(body: gs.Graph, given: list[gs.Tensor], names: Names) -> tuple[list[gs.Node], list[gs.Tensor]]:
    """Nodes of one step, and the tensors that stand for the outputs of the body."""
    stand_in = {id(inner): outer for inner, outer in zip(body.inputs, given, strict=True)}
    nodes = []
    for node in body.nodes:
        outputs = []
        for tensor in node.outputs:
            own = (
                gs.Variable.empty()
                if tensor.is_empty()
                else gs.Variable(names(tensor.name), tensor.dtype, tensor.shape)
            )
            stand_in[id(tensor)] = own
            outputs.append(own)
        inputs = [stand_in.get(id(tensor), tensor) for tensor in node.inputs]
        nodes.append(
            gs.Node(node.op, names(node.name or node.op), dict(node.attrs), inputs, outputs, domain=node.domain)
        )
    return nodes, [stand_in.get(id(tensor), tensor) for tensor in body.outputs]


def _known(tensor: gs.Tensor, nodes: list[gs.Node], graph: gs.Graph) -> bool | None:
    """The value of a condition; None if it depends on more than constants."""
    value = value_of(tensor)
    if value is not None:
        return bool(value.reshape(-1)[0])
    needed: dict[int, gs.Node] = {}
    waiting = [tensor]
    while waiting:
        one = waiting.pop()
        if isinstance(one, gs.Constant) or one.is_empty():
            continue
        if not one.inputs or next(one.inputs[0].subgraphs(), None) is not None:
            return None
        if id(one.inputs[0]) not in needed:
            needed[id(one.inputs[0])] = one.inputs[0]
            waiting += list(one.inputs[0].inputs)
    chosen = [node for node in (*graph.nodes, *nodes) if id(node) in needed]
    part = gs.Graph(chosen, [], [tensor], name="condition", opset=graph.opset, ir_version=graph.ir_version)
    session = Reference(gs.export_onnx(part, do_type_check=False), "the condition of a loop", threads=1)
    return bool(session.run({})[tensor.name].reshape(-1)[0])


def _integer(tensor: gs.Tensor) -> int | None:
    """The one number of a constant."""
    value = value_of(tensor)
    return None if value is None or value.size != 1 else int(value.reshape(-1)[0])
