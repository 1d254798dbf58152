"""Channels of activations brought to like ranges, where the layers that read them compute more exactly by it.

All channels of an activation share one 8-bit grid: the one with the largest range sets its steps, and what lies in a
channel a hundred times smaller is lost in two or three of them. Scaled by  s_c = (max_c r_c / r_c)^a,  r_c the largest
magnitude of the channel, they come closer together (a = 1: alike), at the expense of the readers' weights, whose
columns then differ more. A depthwise layer has one scale for each channel anyway: there it costs nothing.

Which power is best, and whether any is, the data says: half of a few frames give r_c and the grid, on the other half
the layers that read the tensors run with rounded inputs and weights, and the error of their outputs decides (without
its mean in each channel, which is the bias correction's). After Nagel et al. 2019, arXiv:1906.04721 (weights' ranges,
where we look at activations') and Xiao et al. 2022, arXiv:2211.10438 (the power).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration import ranges, scaling
from drpai_qat.calibration.collection import Frame, Observed, in_slices
from drpai_qat.calibration.insertion import weight_scale
from drpai_qat.calibration.observers import Ends, Histogram
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.scaling import Group, Scale
from drpai_qat.core.progress import Stages, counted
from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.scaled_channels import ScaledChannels
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess.surgery import channel_axis

FRAMES = 16
POWERS = (0.25, 0.5, 0.75, 1.0)
_MOST = 32.0
"""A channel that the frames hardly show may be larger in others: it is scaled up by no more than this."""
_WORTH = 0.9
"""Share of the error that has to be left at most, or nothing is changed."""
_BUDGET = 256 << 20  # bytes of tensors that are kept
_PIECE = 1 << 16  # elements of a tensor of one frame that go into its histogram

Arrays = list[NDArray[np.float32]]


def equalize(
    model: onnx.ModelProto, frames: Sequence[Frame], recipe: Recipe, progress: Stages, *, multiplies: bool
) -> tuple[onnx.ModelProto, ScaledChannels]:
    """Scale channels where it makes layers more exact.

    Args:
        model: float, folded; not changed.
        frames: a few of the calibration data.
        multiplies: a Mul may be put behind functions that no scale passes through: in front of a kernel's rounding it
            costs nothing; targets that take operators one by one would run it alone.
    Returns: a model that computes the same, and what was scaled.
    """
    graph = gs.import_onnx(model)
    groups = scaling.find_groups(graph, multiplies=multiplies) if frames else []
    chosen = []
    for group, tensors in counted(_with_data(model, groups, frames), len(groups), progress):
        scale = best_scale(group, tensors, recipe, graph.opset)
        if scale is not None:
            chosen.append((group, scale))
    if not chosen:
        return model, ScaledChannels()
    scaled = scaling.apply(graph, chosen)
    return gs.export_onnx(graph, do_type_check=False), scaled


def best_scale(group: Group, tensors: Mapping[str, Arrays], recipe: Recipe, opset: int) -> Scale | None:
    """The scale with the least error of the layers that read the group's tensors; None: none is worth it.

    Args:
        tensors: those that layers read, by name, one array a frame.
    """
    seen, unseen = ({name: values[at::2] or values for name, values in tensors.items()} for at in (0, 1))
    spread = _spread(seen.values(), group.axis)
    if spread is None:
        return None
    trials = [_Trial(node, unseen[name], name, opset) for node, name in group.ends.values()]
    errors = [
        _error(trials, seen, unseen, np.asarray(spread**power, np.float32), group.axis, recipe) for power in POWERS
    ]
    plain = _error(trials, seen, unseen, np.ones(spread.shape, np.float32), group.axis, recipe)
    best = int(np.argmin(errors))
    return np.asarray(spread ** POWERS[best], np.float32) if errors[best] < _WORTH * plain else None


def _error(
    trials: Sequence[_Trial],
    seen: Mapping[str, Arrays],
    unseen: Mapping[str, Arrays],
    scale: Scale,
    axis: int,
    recipe: Recipe,
) -> float:
    """Of all layers that read a group scaled so."""
    rounded = {}
    for name, values in seen.items():
        along = scale.reshape([-1 if at == axis else 1 for at in range(values[0].ndim)])
        params = _grid(values, along, recipe)
        rounded[name] = [_rounded(one * along, params) for one in unseen[name]]
    return sum(trial.error(rounded[trial.name], scale) for trial in trials)


def _spread(tensors: Iterable[Arrays], axis: int) -> NDArray[np.float64] | None:
    """How much smaller each channel's largest magnitude is than the largest of all, shape (channels,).

    Of several tensors the geometric mean of what each of them says; None: nothing is finite and not zero.
    """
    found = []
    for values in tensors:
        others = tuple(at for at in range(values[0].ndim) if at != axis)
        largest = np.max([np.abs(one).max(axis=others) for one in values], axis=0).astype(np.float64)
        if not np.isfinite(largest).all():
            return None
        if largest.max() > 0:
            found.append(np.log(largest.max() / np.maximum(largest, largest.max() / _MOST)))
    return np.exp(np.mean(found, axis=0)) if found else None


def _grid(values: Arrays, along: NDArray[np.float32], recipe: Recipe) -> QuantParams:
    """What calibration would give the tensor, from a part of its elements."""
    pieces = [(one * along).reshape(-1) for one in values]
    ends = Ends()
    for piece in pieces:
        ends.add(piece)
    if recipe.method in ranges.BY_ENDS:
        return ranges.grid_of_range(*ranges.BY_ENDS[recipe.method](ends), symmetric=recipe.symmetric)
    histogram = Histogram(ends.low, ends.high)
    for piece in pieces:
        histogram.add(piece[:: max(1, piece.size // _PIECE) | 1])  # an odd step meets every column
    return ranges.grid_of_range(
        *ranges.of_histogram(histogram, recipe.method, recipe.share), symmetric=recipe.symmetric
    )  # fmt: skip


def _rounded(values: NDArray[np.float32], params: QuantParams) -> NDArray[np.float32]:
    """Values on a grid, in place."""
    np.rint(np.multiply(values, 1 / params.scale, out=values), out=values)
    np.clip(values, params.qmin - int(params.zero_point), params.qmax - int(params.zero_point), out=values)
    return np.multiply(values, params.scale, out=values)


class _Trial:
    """A layer run alone, with rounded inputs and weights beside its own."""

    def __init__(self, node: gs.Node, inputs: Arrays, name: str, opset: int) -> None:
        """Run it as it is.

        Args:
            inputs: one array a frame.
            name: of the tensor that they are.
        """
        self.name = name
        self._node = node
        shapes = (inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape)
        x, w, y = (gs.Variable(of, np.dtype(np.float32), list(shape)) for of, shape in zip("xwy", shapes, strict=True))
        attributes = {key: value for key, value in node.attrs.items() if key != "beta"}
        part = gs.Graph([gs.Node(node.op, "", attributes, [x, w], [y])], [x, w], [y], opset=opset, ir_version=10)
        self._reference = Reference(gs.export_onnx(part, do_type_check=False), "a layer to calibrate", optimized=True)
        self._wanted = self._run(inputs, node.inputs[1].values)
        self._power = sum(float(np.vdot(one, one)) for one in self._wanted)

    def _run(self, inputs: Arrays, weights: NDArray[np.float32]) -> Arrays:
        return [self._reference.run({"x": one, "w": weights})["y"] for one in inputs]

    def error(self, inputs: Arrays, scale: Scale) -> float:
        """Relative squared error of the outputs but for each channel's mean, with these inputs and scaled weights."""
        axis = channel_axis(self._node)
        weights = scaling.weights_read_scaled(self._node, scale)
        params = QuantParams.of(weight_scale(weights, axis), 0, np.int8, qmin=-127, axis=axis)
        found = self._run(inputs, params.dequantize(params.quantize(weights)))
        squares, sums, count = 0.0, np.zeros(()), 0
        channels = 1 if self._node.op.startswith("Conv") else found[0].ndim - 1
        others = tuple(at for at in range(found[0].ndim) if at != channels)
        for one, wanted in zip(found, self._wanted, strict=True):
            off = np.subtract(one, wanted, out=one)
            squares += float(np.vdot(off, off))
            sums = sums + off.sum(axis=others, dtype=np.float64)
            count += off.size // off.shape[channels]
        return (squares - float(np.square(sums).sum()) / count) / max(self._power, 1e-30)


def _with_data(
    model: onnx.ModelProto, groups: Sequence[Group], frames: Sequence[Frame]
) -> Iterator[tuple[Group, dict[str, Arrays]]]:
    """Each group with what its readers read in these frames; the network runs once for as many as fit in memory."""

    def size(group: Group) -> int:
        names = {name for _, name in group.ends.values()}
        return 4 * len(frames) * sum(math.prod(group.tensors[name].shape) for name in names)

    for some in in_slices(groups, size, _BUDGET):
        names = list(dict.fromkeys(name for group in some for _, name in group.ends.values()))
        observed = Observed(model, names)
        found: dict[str, Arrays] = {name: [] for name in names}
        for frame in frames:
            for name, values in observed.run(frame):
                found[name].append(values)
        for group in some:
            yield group, {name: found[name] for _, name in group.ends.values()}
