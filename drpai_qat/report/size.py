"""How large a compiled network is: in its files, and in memory while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx


@dataclass(frozen=True)
class MemoryUse:
    """What a network takes besides its parameters and its inputs, in bytes.

    Attributes:
        workspace: all blocks that hold intermediate tensors and outputs.
        live: the largest total of tensors in use at one time: no placement needs less.
        by_step: the total in use at each kernel of a run, in order; empty where that is not known.
    """

    workspace: int = 0
    live: int = 0
    by_step: tuple[int, ...] = ()

    def __add__(self, other: MemoryUse) -> MemoryUse:
        return MemoryUse(self.workspace + other.workspace, self.live + other.live, self.by_step + other.by_step)


@dataclass(frozen=True)
class CodeUse:
    """The machine code of a network's kernels.

    Attributes:
        kernels: bytes of each kernel, instructions and constants, by its symbol in deploy.so.
        steps: the symbols of the kernels that each step of a run calls, in order.
    """

    kernels: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Size:
    """A compiled network.

    Attributes:
        library, params: bytes of deploy.so and deploy.params.
        weights: elements of the canonical model's weights.
        memory: while it runs.
        code: of its kernels, where it runs as kernels.
        file: name of the one file that holds code and parameters, where there is one: `library` is its size then, and
            what a run takes is up to its interpreter.
    """

    library: int
    params: int
    weights: int
    memory: MemoryUse
    file: str = ""
    code: CodeUse = CodeUse()

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json; bytes."""
        if self.file:
            return {self.file: self.library, "weights": self.weights}
        return {
            "deploy.so": self.library,
            "kernels": sum(self.code.kernels.values()),
            "deploy.params": self.params,
            "weights": self.weights,
            "params_bytes_a_weight": round(self.params / self.weights, 3) if self.weights else None,
            "workspace": self.memory.workspace,
            "largest_live_activations": self.memory.live,
            "live_activations_by_step": list(self.memory.by_step),
        }


def count_weights(model: onnx.ModelProto) -> int:
    """Elements of a canonical model's 8-bit and float constants of more than one dim: weights, not biases or scales."""
    kinds = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT}
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type in kinds and len(t.dims) > 1)


def count_quantized(model: onnx.ModelProto) -> tuple[int, int]:
    """Numbers of quantized weights and activations of a canonical model; int32 biases are not counted."""
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and stored.get(node.input[0], onnx.TensorProto.INT32) != onnx.TensorProto.INT32
    }
    return len(weights), sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
