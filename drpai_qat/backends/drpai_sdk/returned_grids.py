"""The quantized ONNX that comes back from the Quantizer, held against what was trained, tensor by tensor.

Tensors are found by name, and weights by the layer that they belong to, as optimizers rename constants. Where the
Quantizer puts its nodes is its own matter: at a Clip's output or at its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from drpai_qat.backends.drpai_sdk.submodels import FloatModel, TrainedRange
from drpai_qat.compare.parameters import SCALE_TOLERANCE, signed_zero_point, told
from drpai_qat.core.errors import QuantizationError
from drpai_qat.core.quantization import QuantParams


@dataclass(frozen=True)
class ReturnedGrid:
    """What became of one trained grid.

    Attributes:
        tensor: name in the float model.
        kind: "activation" or "weights".
        trained, found: the grids in words; `found` is empty if no quantization was found there.
        kept: they are the same.
        finer: another grid, with more steps over the same range: what becomes of a range trained with fewer than 255.
    """

    tensor: str
    kind: str
    trained: str
    found: str
    kept: bool
    finer: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in ranges.json."""
        return vars(self).copy()

    def __str__(self) -> str:
        how = " (finer, over the same range)" if self.finer else ""
        return (
            f"{self.kind} {self.tensor}: trained {self.trained}, came back {self.found or 'without quantization'}{how}"
        )


def compare_grids(floats: FloatModel, returned: onnx.ModelProto) -> tuple[ReturnedGrid, ...]:
    """Hold every trained grid of a float model against the model that the Quantizer made of it."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in returned.graph.initializer}
    for node in returned.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    activations = _activation_grids(returned, constants)
    found = []
    for one in floats.ranges:
        grid = activations.get(one.tensor) or activations.get(one.clipped)
        kept = grid is not None and _same(one.params, grid)
        finer = grid is not None and not kept and _covers(grid, one)
        found.append(ReturnedGrid(one.tensor, "activation", told(one.params), told(grid), kept, finer))
    weights = _weight_grids(returned, constants)
    for node in floats.model.graph.node:
        for at, name in enumerate(node.input):
            if name in floats.weights and at == 1:  # biases lie on the product of other grids
                grid = weights.get(node.output[0]) or weights.get(node.name)
                trained = floats.weights[name]
                kept = grid is not None and _same(trained, grid)
                came = told(grid) + ("" if grid is None or kept else _channels(trained, grid))
                found.append(ReturnedGrid(name, "weights", told(trained), came, kept))
    return tuple(found)


def _activation_grids(model: onnx.ModelProto, constants: Mapping[str, NDArray]) -> dict[str, QuantParams]:
    """Grids by the name of the tensor that is quantized, and by that of the network's output behind it."""
    found: dict[str, QuantParams] = {}
    quantized: dict[str, QuantParams] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and (params := _params(node, constants)) is not None:
            found.setdefault(node.input[0], params)
            quantized[node.output[0]] = params
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantized:
            found.setdefault(node.output[0], quantized[node.input[0]])
    return found


def _weight_grids(model: onnx.ModelProto, constants: Mapping[str, NDArray]) -> dict[str, QuantParams]:
    """Grids of constant second operands, by the layer's output and by its name."""
    makers = {name: node for node in model.graph.node for name in node.output}
    behind: dict[str, str] = {}  # the tensor in front of a pair, where the pair took its name
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and (maker := makers.get(node.input[0])) is not None:
            behind[maker.input[0]] = node.output[0]
    found: dict[str, QuantParams] = {}
    for node in model.graph.node:
        maker = makers.get(node.input[1]) if len(node.input) > 1 else None
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        inner = makers.get(maker.input[0])  # weights that are quantized in the file: constant -> Q -> DQ
        source = inner.input[0] if inner is not None and inner.op_type == "QuantizeLinear" else maker.input[0]
        if source not in constants:
            continue
        params = _params(maker, constants)
        if params is not None:
            for name in filter(None, (node.name, node.output[0], behind.get(node.output[0]))):
                found.setdefault(name, params)
    return found


def _params(node: onnx.NodeProto, constants: Mapping[str, NDArray]) -> QuantParams | None:
    scale = constants.get(node.input[1])
    point = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scale is None:
        return None
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    try:
        return QuantParams.read(np.asarray(scale, np.float32), point, axis=axis)
    except QuantizationError:
        return None


def _same(trained: QuantParams, found: QuantParams) -> bool:
    """One grid: scales to the tolerance, the same real zero point whichever type counts from it."""
    if found.scale.size not in (1, trained.scale.size) and trained.scale.size != 1:
        return False
    if not np.allclose(trained.scale, found.scale, rtol=SCALE_TOLERANCE, atol=0):
        return False
    return bool((signed_zero_point(trained) == signed_zero_point(found)).all())


def _channels(trained: QuantParams, found: QuantParams) -> str:
    """How many channels have the trained scale: one whose largest weight is not at 127 steps gets another."""
    if trained.scale.size == 1 or found.scale.size != trained.scale.size:
        return ""
    same = np.isclose(trained.scale, found.scale, rtol=SCALE_TOLERANCE, atol=0) & (
        signed_zero_point(trained) == signed_zero_point(found)
    )
    return f", {int(same.sum())} of {same.size} channels as trained"


def _covers(found: QuantParams, trained: TrainedRange) -> bool:
    """A finer grid with the trained ends, to half a trained step."""
    step = float(trained.params.scale)
    if found.scale.size != 1 or float(found.scale) >= step:
        return False
    low, high = (float(end) for end in found.real_range())
    return abs(low - trained.low) <= step / 2 and abs(high - trained.high) <= step / 2


def counted(grids: Sequence[ReturnedGrid]) -> str:
    """How many came back as trained, in words."""
    changed, finer = sum(not one.kept for one in grids), sum(one.finer for one in grids)
    how = f", {finer} of them finer over the same range" if finer else ""
    return f"{len(grids) - changed} of {len(grids)} trained grids came back as trained" + (
        f"; {changed} changed{how}" if changed else ""
    )
