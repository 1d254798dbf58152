"""Sums so large that float32 can't tell where they lie on the grid behind them.

float32 rounds a sum of terms t by 2^-24 max |t| at least. Where that is more than the whole range of the grid behind,
terms that cancel leave the one end of the grid or the other: by chance, in onnxruntime as well. Training diverged.

    2^-24 max |x| max |w|  >  s_y (qmax - qmin)
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import QuantizationError
from drpai_qat.core.quantization import QuantParams
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import LAYERS, params_of, produced_by, value_of

_HUGE = 1e6
"""Smaller scales of inputs are no divergence; the grid of a layer that is always zero can be as small as 1e-7."""
_KEEPING = ("Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "MaxPool")
"""What rounding shows behind, whatever it is in front."""


def refuse_lost_sums(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Refuse layers whose sums leave nothing but rounding on the grid behind them.

    Raises: QuantizationError: names the layer, its input and scale, and the grid.
    """
    lost: dict[int, tuple[float, gs.Node]] = {}  # by tensor: what float32 rounds by, and the layer
    for node in graph.nodes:
        found = lost.get(id(node.inputs[0])) if node.inputs else None
        if node.op in LAYERS:
            rounding = _rounding(node)
            found = (rounding, node) if rounding else None
        elif node.op == QUANTIZE and found is not None:
            _compare(*found, node)
            continue
        elif node.op == "Mul":  # x sigmoid(x)
            others = [lost.get(id(one)) for one in node.inputs]
            found = None if None in others else others[0]
        elif node.op not in _KEEPING:
            continue
        if found is not None:
            lost[id(node.outputs[0])] = found
    return graph


def _rounding(layer: gs.Node) -> float:
    """What float32 rounds the sums of a layer by, at least; 0 where its input is no sign of divergence."""
    data, weights = (produced_by(one, DEQUANTIZE) for one in layer.inputs[:2])
    integers = None if weights is None else value_of(weights.inputs[0])
    if data is None or weights is None or integers is None or not integers.size:
        return 0.0
    grid = params_of(data)
    if grid.scale.max() < _HUGE:
        return 0.0
    largest = np.abs(params_of(weights).dequantize(integers)).max()
    return float(2.0**-24 * _largest(grid) * largest)


def _largest(grid: QuantParams) -> float:
    ends = np.maximum(np.abs(grid.qmin - grid.zero_point), np.abs(grid.qmax - grid.zero_point))
    return float((grid.scale.astype(np.float64) * ends).max())


def _compare(rounding: float, layer: gs.Node, quantize: gs.Node) -> None:
    grid = params_of(quantize)
    whole = float(grid.scale.astype(np.float64).max()) * (grid.qmax - grid.qmin)
    if rounding <= whole:
        return
    scale = layer.inputs[0].inputs[0].inputs[1]  # of the DequantizeLinear that `_rounding` found
    raise QuantizationError(
        f"node {layer.name} ({layer.op}), tensor {scale.name}: scale = {scale.values.max():g} makes sums that float32 "
        f"rounds by {rounding:.2g} or more, and the whole grid behind, of {quantize.name}, spans {whole:.2g}: "
        "training diverged; look at the ranges there, and train or calibrate again"
    )
