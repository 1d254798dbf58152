"""Lowering: the canonical QDQ model becomes integer kernels in a tvm.IRModule.

model --read_graph--> Graph --rewrite--> Graph --plan_network--> NetworkPlan
Graph, NetworkPlan --lowering of each node (ops/)--> Program --> IRModule
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import tvm

from drpai_qat.core.coverage import KernelCall, LoweredNode
from drpai_qat.core.errors import LoweringError
from drpai_qat.core.moving import MOVING
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.graph.canonical import Graph
from drpai_qat.graph.network import read_network
from drpai_qat.graph.ranges import data_input
from drpai_qat.kernels.isa import Isa
from drpai_qat.lowering import ops as _ops  # noqa: F401  (registers the lowerings)
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.imported import lower_node
from drpai_qat.lowering.planning import plan_network
from drpai_qat.lowering.program import Program, kind_of, live_steps, to_module
from drpai_qat.lowering.storage import Stored, row_major

__all__ = ["Lowered", "LoweredNode", "TensorInfo", "lower"]


@dataclass(frozen=True)
class Lowered:
    """A network as kernels.

    Attributes:
        module: `main` takes the inputs, then `params` in their order.
        params: constants by name.
        coverage: what became of each node.
        kernels: the steps of a run, in order.
    """

    module: tvm.IRModule
    params: dict[str, npt.NDArray[np.generic]]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    coverage: tuple[LoweredNode, ...]
    kernels: tuple[KernelCall, ...] = ()


def lower(model: onnx.ModelProto, isa: Isa, exact_sums: bool = True) -> Lowered:
    """Lower a canonical QDQ model.

    Args:
        model: as `preprocess` makes it: static shapes, quantization as QuantizeLinear and DequantizeLinear.
        isa: instruction set of the kernels.
        exact_sums: compute bounded tensors without a trained range as finely as float32 does; False: in int16.
    Raises: LoweringError: an operator has no implementation here nor in TVM's importer.
    """
    graph = read_network(model)
    context = Context(graph, isa, plan_network(graph, isa, exact_sums))
    for name in graph.inputs:
        context.stored[name] = context.program.add_input(name, graph.shapes[name], graph.dtypes[name], None)
    owners: list[str] = []  # of the steps so far
    for node in graph.nodes:
        if node.output in context.done:
            continue
        if node.output in context.plan.parts and node.output not in context.plan.stored_parts:
            context.record(node, "view")
            continue
        lower_node(context, node)
        owners += [node.name] * (len(context.program.steps) - len(owners))
    for name in graph.outputs:
        stored = _as_output(context, name)
        owners += [_counted(context, name)] * (len(context.program.steps) - len(owners))
        context.program.outputs.append((stored.buffer, stored.shape))
    return Lowered(
        to_module(context.program),
        context.program.constants,
        tuple(_info(graph, name) for name in graph.inputs),
        tuple(_info(graph, name) for name in graph.outputs),
        tuple(context.coverage),
        _kernels(context.program, owners),
    )


def _kernels(program: Program, owners: Sequence[str]) -> tuple[KernelCall, ...]:
    live = live_steps(program)
    pairs = zip(program.steps, owners, strict=True)
    return tuple(KernelCall(kind_of(step.label), owner) for i, (step, owner) in enumerate(pairs) if i in live)


def _counted(context: Context, name: str) -> str:
    """The node of the coverage that a tensor comes from: itself may be fused into that one."""
    known = {one.node for one in context.coverage}
    node = context.producer(name)
    while node is not None and node.name not in known:
        node = context.producer(data_input(context.graph, node))
    return name if node is None else node.name


def _as_output(context: Context, name: str) -> Stored:
    """The tensor as its users expect it: row-major, float32 unless the model says integers."""
    try:
        stored = context.operand(name)
    except KeyError as error:
        raise LoweringError(f"output {name!r} is not computed by any node") from error
    if context.graph.dtypes.get(name, "float32") == "float32":
        stored = context.converted(stored, None)
    return context.ordered(stored, row_major(len(stored.shape)))


def _info(graph: Graph, name: str) -> TensorInfo:
    params, source = None, _moved_from(graph, name)
    for node in graph.nodes:
        if node.params is not None and (source in node.outputs or (name in graph.inputs and name in node.inputs)):
            params = node.params
            break
    return TensorInfo(name, graph.shapes[name], graph.dtypes.get(name, "float32"), params)


def _moved_from(graph: Graph, name: str) -> str:
    """The tensor whose elements `name` holds, in front of operators that only move them."""
    for node in reversed(graph.nodes):
        movement = MOVING.get(node.op)
        if movement is None or movement.joins or name not in node.outputs:
            continue
        if not movement.by_value or name == node.outputs[0]:
            name = node.inputs[0]
    return name
