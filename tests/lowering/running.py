"""What the lowering tests share: models as text, compiled and run, beside onnxruntime with optimisations off."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx.shape_inference
import tvm
from tvm import relax

from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.build import compile_module
from drpai_qat.core.cpu_features import cpu_features
from drpai_qat.lowering import Lowered, lower
from tests.reference import reference

RUNNABLE = [t.name for t in targets.X86_TARGETS if cpu_features().issuperset(t.features)]
"""Targets whose code this machine runs."""


def model(signature: str, body: str, opset: int = 21, /, **constants: Any) -> onnx.ModelProto:
    """A model from the text of its nodes.

    Args:
        signature: inputs and outputs as onnx.parser reads them: "(float[1,4] x) => (float[1,4] y)".
        body: one node a line.
        constants: initializers by name, as numpy takes them; floats become float32 scalars.
    """
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> net {signature} {{ {body} }}'
    parsed = onnx.parser.parse_model(text)
    for name, value in constants.items():
        array = np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(parsed.graph.node):
        node.name = f"{node.op_type}_{index}"
    inferred = onnx.shape_inference.infer_shapes(parsed, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    return inferred


def grid(prefix: str, scale: float, zero_point: int, dtype: str = "uint8") -> dict[str, Any]:
    """Constants s<prefix> and z<prefix> of a quantizer."""
    return {f"s{prefix}": np.float32(scale), f"z{prefix}": np.asarray(zero_point, dtype)}


def qdq(source: str, result: str, prefix: str | None = None) -> str:
    """The lines of a fake-quant on grid `prefix`."""
    p = prefix or result
    return f"q_{result} = QuantizeLinear({source}, s{p}, z{p})  {result} = DequantizeLinear(q_{result}, s{p}, z{p})\n"


def lowered(source: onnx.ModelProto, target: str = "host", exact_sums: bool = True) -> Lowered:
    """Lowered for this machine."""
    return lower(source, targets.by_name(target).isa, exact_sums)


def execute(network: Lowered, feeds: dict[str, np.ndarray], target: str = "host") -> list[np.ndarray]:
    """Compiled and run once."""
    machine = relax.VirtualMachine(compile_module(network.module, targets.by_name(target)), tvm.cpu())
    values = [np.array(feeds[info.name], info.dtype, order="C") for info in network.inputs]
    result = machine["main"](*map(tvm.runtime.tensor, (*values, *network.params.values())))
    results = [result] if len(network.outputs) == 1 else list(result)
    return [r.numpy() for r in results]


def compiled(source: onnx.ModelProto, feeds: dict[str, np.ndarray], target: str = "host") -> list[np.ndarray]:
    """Lowered, compiled and run once."""
    return execute(lowered(source, target), feeds, target)


def kernels(network: Lowered) -> Counter[str]:
    """How many kernels of each kind run, in the order of first use."""
    found: Counter[str] = Counter()

    def visit(node: relax.Expr) -> None:
        if isinstance(node, relax.Call) and node.op == tvm.ir.Op.get("relax.call_tir"):
            found[node.args[0].name_hint.rpartition("_")[0]] += 1

    relax.analysis.post_order_visit(network.module["main"], visit)
    return found


def computes(network: Lowered) -> dict[str, str]:
    """Compute kind of each reported node, by operator (the last of each)."""
    return {node.op: node.compute for node in network.coverage}


def lsb(result: np.ndarray, expected: np.ndarray, scale: float) -> np.ndarray:
    """Difference in steps of a grid, whole numbers where both lie on it."""
    return np.abs(np.rint((result.astype(np.float64) - expected) / scale))


def telling(expected: np.ndarray) -> bool:
    """A comparison with it can fail: it is neither zero nor the same everywhere, as where all was clipped."""
    return bool(expected.any()) and (expected.size == 1 or bool(np.ptp(expected)))


def assert_same_steps(
    source: onnx.ModelProto, feeds: dict[str, np.ndarray], scale: float, flips: float = 0.0, target: str = "host"
) -> None:
    """The compiled network's outputs against onnxruntime's.

    Args:
        scale: step of the outputs' grid.
        flips: share of elements that may differ by one step, where float32 sums in another order can tip a tie.
    """
    for result, expected in zip(compiled(source, feeds, target), reference(source, feeds), strict=True):
        assert result.shape == expected.shape
        difference = lsb(result, expected, scale)
        assert difference.max(initial=0) <= (1 if flips else 0)
        assert np.count_nonzero(difference) <= max(1, flips * difference.size) * bool(flips)
