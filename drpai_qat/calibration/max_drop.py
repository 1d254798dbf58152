"""--max-drop: the layers whose quantization costs most stay in float, until the network's outputs are near enough.

    drop = 100 * sqrt(sum (y^ - y)^2 / sum y^2)        percent; y of the float network, y^ of the quantized one

over the calibration frames that the walk keeps, of the output that has the largest: 10 is an SQNR of 20 dB, 1 of 40 dB.
Labels are not needed, and it means the same for classes, boxes and images. Layers are ranked by the drop of a network
in which that one alone is quantized, its bias corrected. How many of the worst have to stay is then measured on whole
networks, quantized and corrected anew: errors of layers may amplify each other, or cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.placement import LAYERS, RECURRENT, multiplied
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Silent, Stages, counted
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.layer_weights import macs
from drpai_qat.runtimes.onnxruntime import Reference

RANKING_FRAMES = 16

Make = Callable[[Container[str], Sequence[Frame], Stages], onnx.ModelProto]
"""Quantizes the network but for the layers named, with biases corrected on these frames; tells of each layer."""


@dataclass(frozen=True)
class KeptInFloat:
    """What --max-drop came to.

    Attributes:
        limit: of the drop, percent.
        drop, before: of the network as it is now, and with every layer in integers.
        layers: those in float, the worst first: name, operator, drop with that layer alone quantized.
        macs: their share of all multiply-accumulates, 0..1.
        of: number of layers.
    """

    limit: float
    drop: float
    before: float
    layers: tuple[tuple[str, str, float], ...] = ()
    macs: float = 0.0
    of: int = 0

    def to_json(self) -> dict[str, Any]:
        """As report.json has it."""
        layers = [{"name": name, "op": op, "drop_alone": round(drop, 4)} for name, op, drop in self.layers]
        return {
            "limit": self.limit, "drop": round(self.drop, 4), "drop_all_int8": round(self.before, 4),
            "float_layers": layers, "layers": self.of, "float_mac_fraction": self.macs,
        }  # fmt: skip


def keep_within(
    limit: float, model: onnx.ModelProto, whole: onnx.ModelProto, make: Make, frames: Sequence[Frame], progress: Stages
) -> tuple[onnx.ModelProto, KeptInFloat]:
    """Leave as few of the worst layers in float as the limit allows.

    Args:
        limit: of the drop, percent.
        model: the float network.
        whole: the quantized one with every layer in integers.
        make: quantizes with layers left out.
        frames: some of the calibration data, in memory.
    Raises: OptionError: no layer could be in integers.
    """
    wanted = outputs_of(model, frames)
    drop = drop_of(outputs_of(whole, frames), wanted)
    layers = [
        node for node in gs.import_onnx(model).nodes if node.op in (*LAYERS, *RECURRENT) and multiplied(node)
    ]  # fmt: skip
    if drop <= limit:
        return whole, KeptInFloat(limit, drop, drop, of=len(layers))
    with progress.stage("ranking layers by what their quantization costs"):
        names = [node.name for node in layers]
        few = frames[:RANKING_FRAMES]
        alone = {
            name: drop_of(outputs_of(make({*names} - {name}, few, Silent()), few), wanted)
            for name in counted(names, len(names), progress)
        }
        ranked = sorted(names, key=lambda name: -alone[name])
    made: dict[int, tuple[float, onnx.ModelProto]] = {0: (drop, whole)}

    def passes(count: int) -> bool:
        if count not in made:
            found = make(set(ranked[:count]), frames, progress)
            made[count] = drop_of(outputs_of(found, frames), wanted), found
        return made[count][0] <= limit

    with progress.stage(f"leaving layers in float until the drop is {limit:g}% or less"):
        count = fewest(passes, _guess([alone[name] for name in ranked], drop, limit), len(ranked))
    if count is None:
        least = min(one for one, _ in made.values())
        raise OptionError(
            f"--max-drop {limit:g}: all {len(ranked)} layers would have to stay in float (the least reached with "
            f"one in integers is {least:.3g}%, with all {drop:.3g}%): give more, or train it quantization-aware"
        )
    now, found = made[count]
    kinds = {node.name: node.op for node in layers}
    kept = tuple((name, kinds[name], alone[name]) for name in ranked[:count])
    return found, KeptInFloat(limit, now, drop, kept, _share_of_macs(model, set(ranked[:count])), len(ranked))


def fewest(passes: Callable[[int], bool], guess: int, total: int) -> int | None:
    """The smallest count from 1 to total - 1 that passes, looked for from a guess on; 0 is known to fail.

    Returns: None if total - 1 fails.
    """
    fails, good, step = 0, total, 1
    at = min(max(guess, 1), total - 1)
    while good - fails > 1:
        if passes(at):
            good = at
            at = max(good - step, fails + 1) if fails == 0 else (fails + good) // 2
        else:
            fails = at
            at = min(fails + step, good - 1) if good == total else (fails + good) // 2
        step *= 2
    return good if good < total else None


def _guess(alone: Sequence[float], drop: float, limit: float) -> int:
    """How many of the worst have to go if errors add up as independent ones do."""
    power = np.square(np.asarray(alone, np.float64))
    left = np.concatenate([power[::-1].cumsum()[::-1], [0.0]])
    return int(np.argmax(left <= (limit / drop) ** 2 * max(left[0], 1e-300)))


def outputs_of(model: onnx.ModelProto, frames: Iterable[Frame]) -> list[list[NDArray]]:
    """The outputs of a network, frame by frame."""
    reference = Reference(model, "the quantized model")
    return [list(reference.run(frame).values()) for frame in frames]


def drop_of(found: list[list[NDArray]], wanted: list[list[NDArray]]) -> float:
    """Relative error of the worst output, percent, over as many frames as were run."""
    drops = []
    for ours, theirs in zip(zip(*found, strict=True), zip(*wanted[: len(found)], strict=True), strict=True):
        pairs = [
            (one.astype(np.float64), other.astype(np.float64)) for one, other in zip(ours, theirs, strict=True)
        ]  # fmt: skip
        noise = sum(float(np.square(one - other).sum()) for one, other in pairs)
        signal = sum(float(np.square(other).sum()) for _, other in pairs)
        drops.append(0.0 if noise == 0 else math.inf if signal == 0 else 100 * math.sqrt(noise / signal))
    return max((math.inf if math.isnan(one) else one for one in drops), default=0.0)


def _share_of_macs(model: onnx.ModelProto, names: Container[str]) -> float:
    graph = read_graph(model)
    counts = {node.output: macs(graph, node) for node in graph.nodes}
    kept = {node.output[0] for node in model.graph.node if node.name in names}
    return sum(count for output, count in counts.items() if output in kept) / max(sum(counts.values()), 1)
