"""How far an exported file is from the framework that made it: the file is run in onnxruntime, optimisations off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import ModelError
from drpai_qat.core.moving import VIEWS
from drpai_qat.core.sqnr import sqnr_db

# Rounding ties that fall the other way cost a step here and there; a wrong graph costs the whole signal.
_LEAST_SQNR_DB = 10.0


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the ONNX file.
        exporter: the exporter that wrote it: `torchscript`, `dynamo` or `tf2onnx`.
        max_error: largest absolute difference of onnxruntime from the framework over all outputs, on the example.
        sqnr_db: power of the framework's output over the power of the difference, the worst output's, in dB;
            infinite where they are equal.
        notes: what the user should know, one line each.
        max_steps: largest difference in steps of the output's own grid; None where no output has one.
    """

    path: Path
    exporter: str
    max_error: float
    sqnr_db: float
    notes: tuple[str, ...] = ()
    max_steps: float | None = None

    def __str__(self) -> str:
        closeness = "equal" if math.isinf(self.sqnr_db) else f"SQNR {self.sqnr_db:.1f} dB"
        steps = "" if self.max_steps is None else f", {self.max_steps:.2g} steps of the output's grid"
        head = f"{self.path}: framework and onnxruntime differ by at most {self.max_error:.3g}{steps} ({closeness})"
        return "\n".join((head, *(f"  note: {note}" for note in self.notes)))


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference, the worst output's SQNR in dB, and the difference in steps of an output's grid."""

    max_error: float
    sqnr_db: float
    max_steps: float | None


def compare(path: Path, inputs: Sequence[NDArray[np.generic]], expected: Sequence[NDArray[np.float32]]) -> Difference:
    """Run an ONNX file and compare its outputs with the framework's.

    Args:
        path: the ONNX file.
        inputs: one array for each graph input, in their order.
        expected: the framework's outputs, in the order of the graph's.
    Raises: ModelError: onnxruntime refuses the file, or its outputs have nothing to do with the framework's.
    """
    from drpai_qat.runtimes.onnxruntime import Reference

    reference = Reference(path, "the export")
    actual = list(reference.run(dict(zip(reference.inputs, inputs, strict=True))).values())
    max_error, worst, max_steps = 0.0, math.inf, None
    for ours, theirs, step in zip(actual, expected, _output_steps(path), strict=True):
        if ours.shape != theirs.shape:
            raise ModelError(f"the export gives an output of shape {ours.shape}, the framework {theirs.shape}")
        largest = float(np.max(np.abs(ours - theirs), initial=0.0))
        max_error = max(max_error, largest)
        if step is not None:
            max_steps = max(max_steps or 0.0, largest / step)
        worst = min(worst, sqnr_db(ours, theirs))
    if not worst >= _LEAST_SQNR_DB:  # also catches NaN
        raise ModelError(f"the export is not the model: {worst:.1f} dB between the framework and onnxruntime")
    return Difference(max_error, worst, max_steps)


def _output_steps(path: Path) -> list[float | None]:
    """The step of each output's grid where a DequantizeLinear of one scale makes it, moved or not; else None."""
    import onnx

    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {one.name: one for one in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    steps: list[float | None] = []
    for output in graph.output:
        maker = makers.get(output.name)
        while maker is not None and maker.op_type in (*VIEWS, "Transpose"):
            maker = makers.get(maker.input[0])
        scale = constants.get(maker.input[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None
        value = None if scale is None else onnx.numpy_helper.to_array(scale)
        steps.append(float(value.item()) if value is not None and value.size == 1 else None)
    return steps
