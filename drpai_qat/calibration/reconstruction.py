"""--ptq best: each layer's weights fitted to what the float network computes, from inputs of the quantized one.

Rounded inputs x^ carry noise, and the errors of all layers in front. Of all weights those with the least

    E |y - W' x^ - b'|^2 + d |W' - W|^2        y of the float network, x^ of the quantized one, corrected before

lose least of it: where inputs depend on each other (neighbouring pixels, channels that see the same), W' averages
noise out. They are rounded column after column, each time moving the columns that are still free so that they make up
for what rounding did (Frantar et al. 2022, arXiv:2210.17323), and the mean error goes into the bias. How much is
gained, and with which d, is measured on frames that were not fitted; where nothing is, the weights are left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from drpai_qat.calibration.bias_correction import correct_bias
from drpai_qat.calibration.sixteen_bits import MOST_GROWTH, is_wide, sum_of_weights
from drpai_qat.calibration.walk import Arrays, Step
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import channel_axis, params_of, producer, readers

_DAMPING = (0.003, 0.03, 0.3)
"""d, relative to the mean square of an input."""

_WORTH = 0.97
"""Share of the error on other frames that has to be left at most."""

_MOST_COLUMNS = 2304
_MOST_ROWS = 12288

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class _Rows:
    """A layer as a matrix product: y = W x for each of its groups.

    Attributes:
        x: (groups, rows, columns); y: (groups, rows, outputs); each row a position of a frame.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]

    def centred(self) -> tuple[Matrix, Matrix]:
        """E (x - E x)^2, (groups, columns, columns), and E (y - E y)(x - E x), (groups, outputs, columns)."""
        x, y = (one - one.mean(axis=1, keepdims=True) for one in (self.x, self.y))
        squares, products = (one.transpose(0, 2, 1) @ x / x.shape[1] for one in (x, y))
        return squares.astype(np.float64), products.astype(np.float64)

    def error(self, weights: Matrix) -> float:
        """Squared error of a layer with these weights, (groups, outputs, columns), and the bias that suits them."""
        off = self.y - self.x @ weights.transpose(0, 2, 1).astype(np.float32)
        return float(np.square(off - off.mean(axis=1, keepdims=True), dtype=np.float64).sum())


def reconstruct(step: Step) -> Arrays:
    """Fit the weights of the step's layer, where that is worth it, and correct its bias; returns its output then."""
    found = _fitted(step)
    if found is not None:
        integers, scale = found
        maker = producer(step.layer.inputs[1])
        assert maker is not None
        maker.inputs[0] = gs.Constant(maker.inputs[0].name, integers)
        maker.inputs[1] = gs.Constant(maker.inputs[1].name, scale)
    return correct_bias(step)


def _fitted(step: Step) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Integers of the layer's weights and their scales; None: they are best as they are."""
    maker = producer(step.layer.inputs[1])
    if maker is None or maker.op != DEQUANTIZE or len(list(readers(maker.outputs[0]))) > 1 or len(step.x) < 4:
        return None
    params = params_of(maker)
    now = params.dequantize(maker.inputs[0].values)
    if params.axis is None or not params.symmetric or params.dtype != np.int8 or np.array_equal(now, step.weights):
        return None
    shape = _matrix(step.layer, step.weights).shape
    if math.prod(shape) == 0 or shape[2] > _MOST_COLUMNS:
        return None
    rows = [_rows(step, at) for at in range(len(step.x))]
    if any(one is None for one in rows):
        return None
    fit, held_out = (_joined([one for one in rows[at::2] if one is not None]) for at in (0, 1))
    weights, plain = (_matrix(step.layer, one).astype(np.float64) for one in (step.weights, now))
    squares, products = fit.centred()
    trials = []
    for damping in _DAMPING:
        integers, scale = _fit(weights, squares, products, damping)
        trials.append((held_out.error(integers * scale[..., None]), damping))
    error, damping = min(trials)
    if not error < _WORTH * held_out.error(plain):
        return None
    more, others = held_out.centred()
    integers, scale = _fit(weights, (squares + more) / 2, (products + others) / 2, damping)
    before = sum_of_weights(step.layer)
    if is_wide(step.layer.inputs[0]) and np.abs(integers).sum(axis=2).max() > MOST_GROWTH * before:
        return None  # its accumulators could leave int32
    back = _unmatrix(step.layer, integers.astype(np.int8), step.weights.shape)
    return back, np.asarray(scale.reshape(-1), np.float32)


def _fit(weights: Matrix, squares: Matrix, products: Matrix, damping: float) -> tuple[Matrix, Matrix]:
    """Integers, (groups, outputs, columns), and scales, (groups, outputs), of the weights that fit best."""
    columns = weights.shape[2]
    level = damping * np.trace(squares, axis1=1, axis2=2) / columns
    damped = squares + np.maximum(level, 1e-20)[:, None, None] * np.eye(columns)
    moved = np.linalg.solve(damped, (products - weights @ squares).transpose(0, 2, 1)).transpose(0, 2, 1)
    wanted = weights + moved
    scale = np.abs(wanted).max(axis=2) / 127
    scale = np.where(scale > 1e-22, scale, 1 / 127).astype(np.float32).astype(np.float64)
    return _rounded(wanted, damped, scale), scale


def _rounded(weights: Matrix, squares: Matrix, scale: Matrix) -> Matrix:
    """Weights in steps, the columns with the largest inputs first, each rounded after those before."""
    order = np.argsort(-np.einsum("gcc->c", squares))
    back = np.argsort(order)
    free = weights[:, :, order].copy()
    inverse = np.linalg.inv(squares[:, order][:, :, order])
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    found = np.empty_like(free)
    for at in range(free.shape[2]):
        found[:, :, at] = np.clip(np.rint(free[:, :, at] / scale), -127, 127)
        off = (free[:, :, at] - found[:, :, at] * scale) / upper[:, None, at, at]
        free[:, :, at + 1 :] -= off[:, :, None] * upper[:, None, at, at + 1 :]
    return np.asarray(found[:, :, back])


def _matrix(layer: gs.Node, weights: NDArray) -> NDArray:
    """(groups, outputs of a group, columns)."""
    if layer.op == "Conv":
        return weights.reshape(int(layer.attrs.get("group", 1)), -1, math.prod(weights.shape[1:]))
    return (weights if channel_axis(layer) == 0 else weights.T)[None]


def _unmatrix(layer: gs.Node, matrix: NDArray[np.int8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    if layer.op == "Conv":
        return np.ascontiguousarray(matrix.reshape(shape))
    return np.ascontiguousarray(matrix[0] if channel_axis(layer) == 0 else matrix[0].T)


def _rows(step: Step, at: int) -> _Rows | None:
    """Some of the layer's positions in one frame; None: a layer of another kind."""
    layer, x, y = step.layer, step.x[at], step.y_float[at]
    most = max(1, _MOST_ROWS // len(step.x))
    generator = np.random.default_rng(at)
    if layer.op in ("Gemm", "MatMul"):
        if layer.attrs.get("transA", 0) or layer.attrs.get("alpha", 1.0) != 1.0 or step.weights.ndim != 2:
            return None
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        some = generator.permutation(len(x))[:most]
        return _Rows(x[some][None], y[some][None])
    if layer.op != "Conv" or layer.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    rank, groups = x.ndim - 2, int(layer.attrs.get("group", 1))
    pads = layer.attrs.get("pads", [0] * (2 * rank))
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    dilations = layer.attrs.get("dilations", [1] * rank)
    window = [(size - 1) * apart + 1 for size, apart in zip(step.weights.shape[2:], dilations, strict=True)]
    views = sliding_window_view(padded[0], window, axis=tuple(range(1, rank + 1)))
    strides = layer.attrs.get("strides", [1] * rank)
    views = views[(slice(None), *(slice(None, None, one) for one in (*strides, *dilations)))]
    count = math.prod(y.shape[2:])
    places = np.unravel_index(generator.permutation(count)[:most], y.shape[2:])
    taken: NDArray = views[(slice(None), *places)]  # type: ignore[arg-type]  # (channels, rows, window)
    taken = taken.reshape(groups, -1, *taken.shape[1:]).transpose(0, 2, 1, *range(3, 3 + rank))
    outputs = y[0][(slice(None), *places)].reshape(groups, -1, taken.shape[1]).transpose(0, 2, 1)
    return _Rows(np.ascontiguousarray(taken).reshape(groups, taken.shape[1], -1), np.ascontiguousarray(outputs))


def _joined(rows: list[_Rows]) -> _Rows:
    return _Rows(np.concatenate([one.x for one in rows], axis=1), np.concatenate([one.y for one in rows], axis=1))
