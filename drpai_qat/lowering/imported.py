"""Operators without a kernel of ours, through TVM's own ONNX importer: float32, TVM's default schedules."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import tvm
from tvm import relax, tirx
from tvm.relax.frontend.onnx import from_onnx

from drpai_qat.core.errors import LoweringError
from drpai_qat.core.quiet import quiet
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Node
from drpai_qat.graph.importer_limits import why_not_importable
from drpai_qat.graph.layer_weights import macs, no_kernel
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.index_guards import guard
from drpai_qat.lowering.program import ImportedStep
from drpai_qat.lowering.registry import LOWERINGS
from drpai_qat.lowering.storage import Stored, row_major


def lower_node(context: Context, node: Node) -> None:
    """Append a node: by the lowering registered for it, else as TVM imports it.

    Raises: LoweringError: neither has an implementation.
    """
    lowering = LOWERINGS.get(node.op)
    if lowering is None or not lowering(context, node):
        lower_imported(context, node)


def lower_imported(context: Context, node: Node) -> None:
    """Append a node as TVM imports it.

    Raises: LoweringError: TVM's importer does not know the operator either, or not with these operands.
    """
    if node.op in (FAKE_QUANT, QUANTIZE, DEQUANTIZE) and node.params is not None:
        what = "one grid per channel" if node.params.per_channel else node.params.dtype.name
        raise LoweringError(f"node {node.name!r}: an activation on {what} can't be lowered; export one 8-bit grid")
    if not node.source:
        raise LoweringError(f"node {node.name!r} ({node.op}): no implementation for these operands")
    limit = why_not_importable(context.graph, node)
    if limit:
        raise LoweringError(f"node {node.name!r}: operator {node.op}: {limit}")
    dynamic = [n for n in dict.fromkeys(node.inputs) if n and not context.graph.is_constant(n)]
    operands = [_shaped(context, name) for name in dynamic]
    model = _single_node_model(context, node, dynamic, operands)
    module, refusal = _import(model)
    if module is None:
        raise LoweringError(
            f"node {node.name!r}: operator {node.op} has no kernel here, and TVM's ONNX importer refuses it: {refusal}"
        )
    function = module["main"].without_attr("global_symbol")
    _check_results(context, node, function)
    label = f"onnx_{node.op.lower()}_{len(context.program.steps)}"
    function, private = _with_own_names(module, function, label)
    outs = []
    for name in node.outputs:
        if name:
            shape, dtype = context.shape(name), context.graph.dtypes.get(name, "float32")
            buffer = context.program.buffer(math.prod(shape), dtype)
            context.stored[name] = Stored(buffer, shape, row_major(len(shape)), dtype, None)
            outs.append(buffer)
    context.program.steps.append(
        ImportedStep(
            function,
            private,
            tuple(o.buffer for o in operands),
            tuple(o.shape for o in operands),
            tuple(outs),
            label,
        )
    )
    context.record(node, "tvm", macs(context.graph, node), no_kernel(node.op))


def _import(model: onnx.ModelProto) -> tuple[tvm.IRModule | None, str]:
    """The model as TVM's importer has it; else None, and why not."""
    with quiet():
        try:
            module = from_onnx(model, keep_params_in_input=False)
            return relax.transform.DecomposeOpsForInference()(module), ""
        except Exception as error:  # the importer raises whatever its converters raise
            traceback.clear_frames(error.__traceback__)  # they hold a builder that prints when it goes
            return None, str(error).strip().splitlines()[-1][:160] if str(error).strip() else type(error).__name__


@relax.expr_functor.mutator
class _Calls(relax.PyExprMutator):  # type: ignore[misc]
    """Calls to global functions directed to others."""

    def __init__(self, renamed: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self._renamed = renamed

    def visit_global_var_(self, op: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        return self._renamed.get(op, op)


def _with_own_names(
    module: tvm.IRModule, function: relax.Function, label: str
) -> tuple[relax.Function, dict[tvm.ir.GlobalVar, tirx.PrimFunc]]:
    """The function, and the loop nests that the importer wrote for it, under names that no other node's have."""
    private = {var: f for var, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    if not private:
        return function, {}
    renamed = {}
    for var in private:
        renamed[var] = tvm.ir.GlobalVar(f"{label}_{var.name_hint}")
        relax.expr._update_type(renamed[var], var.ty)
    return _Calls(renamed).visit_expr(function), {renamed[var]: f for var, f in private.items()}


def _check_results(context: Context, node: Node, function: relax.Function) -> None:
    """Refuse a node whose import does not have the shapes and types that ONNX defines."""
    result = function.ret_ty
    parts = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    wanted = [(context.shape(n), context.graph.dtypes.get(n, "float32")) for n in node.outputs if n]
    found = [_static(part) for part in parts]
    if [_content(t) for t in found] != [_content(t) for t in wanted]:
        raise LoweringError(
            f"node {node.name!r}: operator {node.op} has no kernel here, and TVM's ONNX importer computes "
            f"{_listed(found)} where ONNX defines {_listed(wanted)}"
        )


def _static(part: relax.Type) -> tuple[tuple[int, ...], str] | None:
    if not isinstance(part, relax.TensorType) or not isinstance(part.shape, relax.ShapeExpr):
        return None
    if not all(isinstance(dim, tirx.IntImm) for dim in part.shape.values):
        return None
    return tuple(int(dim) for dim in part.shape.values), str(part.dtype)


def _content(tensor: tuple[tuple[int, ...], str] | None) -> tuple[list[int], str] | None:
    """Axes of size 1 aside: buffers are flat."""
    return None if tensor is None else ([d for d in tensor[0] if d != 1], tensor[1])


def _listed(tensors: Sequence[tuple[tuple[int, ...], str] | None]) -> str:
    return ", ".join("a dynamic shape" if t is None else f"{t[1]}{list(t[0])}" for t in tensors)


def _shaped(context: Context, name: str) -> Stored:
    stored = context.operand(name)
    if stored.grid is not None:
        stored = context.converted(stored, None)
    return context.ordered(stored, row_major(len(stored.shape)))


def _single_node_model(context: Context, node: Node, dynamic: list[str], operands: list[Stored]) -> onnx.ModelProto:
    proto = onnx.NodeProto()
    proto.CopyFrom(node.source[0])
    names = {name: f"x{i}" for i, name in enumerate(dynamic)}
    initializers = []
    for i, name in enumerate(dict.fromkeys(n for n in node.inputs if n and n not in names)):
        value = context.graph.constant(name)
        assert value is not None
        names[name] = f"c{i}"
        initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), names[name]))
    del proto.input[:], proto.output[:]
    proto.input.extend(names[n] if n else "" for n in node.inputs)
    proto.output.extend(f"y{i}" if name else "" for i, name in enumerate(node.outputs))
    inputs = [
        oh.make_tensor_value_info(names[name], oh.np_dtype_to_tensor_dtype(np.dtype(o.dtype)), o.shape)
        for name, o in zip(dynamic, operands, strict=True)
    ]
    outputs = [
        oh.make_tensor_value_info(
            f"y{i}",
            oh.np_dtype_to_tensor_dtype(np.dtype(context.graph.dtypes.get(name, "float32"))),
            context.shape(name),
        )
        for i, name in enumerate(node.outputs)
        if name
    ]
    guards, constants = guard(context, node, proto)
    graph = oh.make_graph([*guards, proto], "node", inputs, outputs, [*initializers, *constants])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", context.graph.opset)], ir_version=8)
