"""The mean error of each layer's outputs, taken off its bias.

Rounding weights and activations shifts the mean of a layer's output channels, and shifts add up from layer to layer:

    b'_c = b_c + mean(y_c - y^_c)        y of the float network, y^ of the quantized one up to here, corrected before

over frames and positions. What the frames can't tell from chance is left out: of a mean m with standard error e, the
share 1 - (e/m)^2 is taken. Nagel et al. 2019, arXiv:1906.04721 (there from statistics of batch norm).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration.walk import Arrays, Step
from preprocess.surgery import optional_input

_BIASED = ("Conv", "ConvTranspose", "Gemm")


def correct_bias(step: Step) -> Arrays:
    """Correct the bias of the step's layer; returns its output, corrected."""
    y = step.run()
    if step.layer.op not in _BIASED:
        return y
    shift = mean_shift(y, step.y_float, channel_axis(step.layer, y[0].ndim))
    add_to_bias(step.layer, shift)
    along = [1] * y[0].ndim
    along[channel_axis(step.layer, y[0].ndim)] = -1
    return [one + shift.reshape(along) for one in y]


def channel_axis(layer: gs.Node, rank: int) -> int:
    """Axis of the channels in a layer's output."""
    return 1 if layer.op.startswith("Conv") else rank - 1


def mean_shift(found: Arrays, wanted: Arrays, axis: int) -> NDArray[np.float32]:
    """How far each channel's mean lies below what it should be, as far as the frames tell; shape (channels,)."""
    others = tuple(at for at in range(found[0].ndim) if at != axis)
    by_frame = np.stack(
        [
            (theirs.astype(np.float64) - ours).mean(axis=others)
            for ours, theirs in zip(found, wanted, strict=True)
        ]
    )  # fmt: skip
    mean = by_frame.mean(axis=0)
    if len(by_frame) < 2:
        return mean.astype(np.float32)
    squared_error = by_frame.var(axis=0, ddof=1) / len(by_frame)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip(1 - squared_error / np.square(mean), 0, 1)
    return np.asarray(np.where(mean == 0, 0, mean * share), np.float32)


def add_to_bias(layer: gs.Node, shift: NDArray[np.float32]) -> None:
    """Give the layer a bias of its own that is larger by `shift`."""
    old = optional_input(layer, 2)
    scale = float(layer.attrs.get("beta", 1.0)) if layer.op == "Gemm" else 1.0
    before = old.values if isinstance(old, gs.Constant) else np.zeros(())
    total = np.broadcast_to(before.reshape(-1) if before.size > 1 else before, shift.shape) + shift / scale
    bias = gs.Constant(f"{layer.name}_corrected_bias", total.astype(np.float32))
    if len(layer.inputs) > 2:
        layer.inputs[2] = bias
    else:
        layer.inputs.append(bias)
