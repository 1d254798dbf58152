"""An ONNX backend over lowering, on which the node tests of `onnx.backend.test` run.

A node test gives everything as an input: data, weights, axes, scales. In a deployed file all but the data is constant.
So parameters become constants, the model takes the passes that every file takes (but for the one that refuses files
without fake-quant), and is lowered and compiled for this machine. Tensors without ranges run in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.backend.base
import onnx.numpy_helper
import onnx_graphsurgeon as gs
import tvm
from tvm import relax

from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.build import compile_module
from drpai_qat.lowering import Lowered, lower
from preprocess.common import FINISH, PREPARE
from preprocess.detection import require_fake_quant
from preprocess.float_interface import use_float_interface
from preprocess.opening import open_graph
from preprocess.passlog import PassLog, run

# The nodes' own types are tested, not the float interface that a deployed network gets.
PASSES = tuple(one for one in (*PREPARE, *FINISH) if one not in (require_fake_quant, use_float_interface))

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
PARAMETERS: dict[str, tuple[int, ...]] = {
    **{f"Reduce{kind}": (1,) for kind in _REDUCTIONS},
    "AffineGrid": (1,),
    "BatchNormalization": (1, 2, 3, 4),
    "CenterCropPad": (1,),
    "Clip": (1, 2),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "CumSum": (1,),
    "DequantizeLinear": (1, 2),
    "DFT": (1, 2),
    "Expand": (1,),
    "Gather": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "Gemm": (1, 2),
    "GRU": (1, 2, 3, 4),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "LSTM": (1, 2, 3, 4, 7),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "PRelu": (1,),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3, 4),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Operands that hold parameters, not data."""

RESULTS = {"Dropout": 1, "LayerNormalization": 1}
"""Outputs that exist in inference; the others serve training."""

NEWEST_OPSET, NEWEST_IR = 26, 13
"""The newest that onnxruntime, which folds constants, serves."""


class CompiledNode(onnx.backend.base.BackendRep):
    """A compiled node model."""

    def __init__(self, input_names: list[str], lowered: Lowered, executable: relax.VMExecutable) -> None:
        self.input_names = input_names
        self.lowered = lowered
        self._machine = relax.VirtualMachine(executable, tvm.cpu())

    def run(self, inputs: Sequence[np.ndarray], **_: object) -> tuple[np.ndarray, ...]:
        """Outputs for the source model's inputs in their order, parameters included."""
        feeds = dict(zip(self.input_names, inputs, strict=False))
        # Half and double precision files become float32 networks.
        values = [np.array(feeds[info.name], info.dtype, order="C") for info in self.lowered.inputs]
        result = self._machine["main"](*map(tvm.runtime.tensor, (*values, *self.lowered.params.values())))
        results = [result] if len(self.lowered.outputs) == 1 else list(result)
        return tuple(r.numpy() for r in results)


class DrpaiBackend(onnx.backend.base.Backend):
    """The backend, as `onnx.backend.base` wants it."""

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", *, examples: Sequence[np.ndarray] = (), **_: object
    ) -> CompiledNode:
        """Compile a node model.

        Args:
            examples: the model's inputs: their shapes become static, the parameters' values constants.
        """
        machine = targets.host()
        log = PassLog()
        graph = run(PASSES, open_graph(_as_deployed(model, examples), log), log)
        lowered = lower(gs.export_onnx(graph), machine.isa)
        names = [value.name for value in model.graph.input]
        return CompiledNode(names, lowered, compile_module(lowered.module, machine))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only this machine's CPU."""
        return device == "CPU"


def _as_deployed(model: onnx.ModelProto, examples: Sequence[np.ndarray]) -> onnx.ModelProto:
    """Static shapes, parameters as initializers, outputs of inference alone."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    fixed.ir_version = min(fixed.ir_version, NEWEST_IR)
    for opset in fixed.opset_import:
        if opset.domain == "" and opset.version > NEWEST_OPSET:
            opset.version = NEWEST_OPSET
    parameters, data = set[str](), set[str]()
    for node in graph.node:
        own = PARAMETERS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            (parameters if i in own else data).add(name)
        results = RESULTS.get(node.op_type, len(node.output))
        unused = set(node.output[results:])
        del node.output[results:]
        kept_outputs = [value for value in graph.output if value.name not in unused]
        del graph.output[:]
        graph.output.extend(kept_outputs)
    kept = []
    for value, array in zip(graph.input, examples, strict=False):
        if value.name in parameters - data:
            graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        else:
            shape = onnx.helper.make_tensor_value_info("", onnx.TensorProto.FLOAT, array.shape)
            value.type.tensor_type.shape.CopyFrom(shape.type.tensor_type.shape)
            kept.append(value)
    del graph.input[:]
    graph.input.extend(kept)
    return fixed
