"""What data shows of tensors that training left without a range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.runtimes.onnxruntime import Reference

Range = tuple[float, float]


def observed_ranges(model: onnx.ModelProto, samples: Sequence[Mapping[str, NDArray]]) -> dict[str, Range]:
    """Smallest and largest value of every float tensor of a canonical model over samples, its inputs included.

    Args:
        samples: network inputs.
    """
    if not samples:
        return {}
    restored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    floats = {
        value.name for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }  # fmt: skip
    names = [name for node in model.graph.node for name in node.output if name in floats and name not in restored]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    reference = Reference(exposed, "model_int8.onnx")
    found: dict[str, Range] = {}
    for sample in samples:
        values: dict[str, NDArray] = {**sample, **(reference.run(sample, names) if names else {})}
        for name, value in values.items():
            if np.asarray(value).dtype.kind == "f":
                low, high = found.get(name, (math.inf, -math.inf))
                found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found
