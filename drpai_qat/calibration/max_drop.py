"""--max-drop: the layers whose quantization costs most get 16-bit activations, or stay in float, until the network's
outputs are near enough.

    drop = 100 * sqrt(sum (y^ - y)^2 / sum y^2)        percent; y of the float network, y^ of the quantized one

over the calibration frames that the walk keeps, of the output that has the largest: 10 is an SQNR of 20 dB, 1 of 40 dB.
Labels are not needed, and it means the same for classes, boxes and images. Of each layer two drops are known: those of
networks in which that one alone is quantized, with activations of 8 and of 16 bits, its bias corrected. 16 bits come
first, for the layers where they gain most. If all layers with 16 bits are not near enough, those that are worst with
16 bits, because of their weights, get weights of more than 8 bits, too, or stay in float where that can't be. How many
it takes of each is measured on whole networks, quantized and corrected anew: errors of layers may amplify each other,
or cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.placement import LAYERS, RECURRENT
from drpai_qat.calibration.sixteen_bits import layers_on_16_bits
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Silent, Stages, counted
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.layer_weights import macs
from drpai_qat.runtimes.onnxruntime import Reference

RANKING_FRAMES = 16

Make = Callable[[Collection[str], Collection[str], Collection[str], Sequence[Frame], Stages], onnx.ModelProto]
"""Quantizes the network with biases corrected on these frames, and tells of each layer. Of the layers named, the first
stay in float, the second get 16-bit activations, and the third fine weights beside them, or stay in float where no
kernel takes these."""


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        drop, wide_drop: percent, with that layer alone quantized, and with 16-bit activations.
        weight_bits: of its weights as they are now; 0: of a product of two activations.
    """

    name: str
    op: str
    drop: float
    wide_drop: float
    weight_bits: int = 8

    def to_json(self) -> dict[str, Any]:
        """As report.json has it."""
        drops = {"drop_alone": round(self.drop, 4), "drop_alone_int16": round(self.wide_drop, 4)}
        return {"name": self.name, "op": self.op, "weight_bits": self.weight_bits, **drops}

    @property
    def gain(self) -> float:
        """What 16 bits take off the drop's square."""
        return self.drop**2 - self.wide_drop**2


@dataclass(frozen=True)
class Kept:
    """What --max-drop came to.

    Attributes:
        limit: of the drop, percent.
        drop, before: of the network as it is now, and with 8 bits in every layer.
        floating: layers in float, the worst first.
        wide: layers with 16-bit activations; that includes those that read a tensor which another one made so.
        float_macs, wide_macs: their shares of all multiply-accumulates, 0..1.
        of: number of layers.
    """

    limit: float
    drop: float
    before: float
    floating: tuple[Layer, ...] = ()
    wide: tuple[Layer, ...] = ()
    float_macs: float = 0.0
    wide_macs: float = 0.0
    of: int = 0

    def to_json(self) -> dict[str, Any]:
        """As report.json has it."""
        return {
            "limit": self.limit, "drop": round(self.drop, 4), "drop_all_int8": round(self.before, 4),
            "int16_layers": [one.to_json() for one in self.wide], "int16_mac_fraction": self.wide_macs,
            "float_layers": [one.to_json() for one in self.floating], "float_mac_fraction": self.float_macs,
            "layers": self.of,
        }  # fmt: skip


def keep_within(
    limit: float, model: onnx.ModelProto, whole: onnx.ModelProto, make: Make, frames: Sequence[Frame], progress: Stages
) -> tuple[onnx.ModelProto, Kept]:
    """Leave as many layers' weights at 8 bits as the limit allows, and then as many layers' activations.

    Args:
        limit: of the drop, percent.
        model: the float network.
        whole: the quantized one with 8 bits in every layer.
        make: quantizes with layers left out, and others on 16 bits.
        frames: some of the calibration data, in memory.
    Raises: OptionError: no layer could be in integers.
    """
    wanted = outputs_of(model, frames)
    drop = drop_of(outputs_of(whole, frames), wanted)
    nodes = [node for node in gs.import_onnx(model).nodes if node.op in (*LAYERS, *RECURRENT)]
    if drop <= limit:
        return whole, Kept(limit, drop, drop, of=len(nodes))
    few, names = frames[:RANKING_FRAMES], {node.name for node in nodes}

    def alone(name: str, wide: Collection[str]) -> float:
        return drop_of(outputs_of(make(names - {name}, wide, (), few, Silent()), few), wanted)

    with progress.stage("ranking layers by what their quantization costs"):
        layers = [
            Layer(node.name, node.op, alone(node.name, ()), alone(node.name, {node.name}))
            for node in counted(nodes, len(nodes), progress)
        ]
    by_gain = sorted(layers, key=lambda layer: -layer.gain)
    by_rest = sorted(layers, key=lambda layer: -layer.wide_drop)

    @cache
    def made(finest: int, wides: int) -> tuple[float, onnx.ModelProto]:
        if not finest and not wides:
            return drop, whole
        worst = {layer.name for layer in by_rest[:finest]}
        wide = [layer.name for layer in by_gain if layer.name not in worst][:wides]
        found = make((), wide, worst, frames, Silent())
        return drop_of(outputs_of(found, frames), wanted), found

    total = len(layers)
    with progress.stage(f"giving layers 16 bits, or float, until the drop is {limit:g}% or less"):
        finest, least = 0, made(0, total)[0]
        if least > limit:
            guess = _guess([layer.wide_drop**2 for layer in by_rest], least, 0, limit)
            finest = fewest(lambda count: made(count, total - count)[0] <= limit, guess, total)
        if finest == total and (made(total, 0)[0] > limit or not layers_on_16_bits(made(total, 0)[1])):
            raise OptionError(
                f"--max-drop {limit:g}: all {total} layers would have to stay in float ({drop:.3g}% with all in "
                f"integers, {least:.3g}% with 16-bit activations in all): give more, or train it quantization-aware"
            )
        wides, coarsest = 0, made(finest, 0)[0]
        if coarsest > limit:
            gains = [layer.gain for layer in by_gain if layer not in by_rest[:finest]]
            guess = _guess(gains, coarsest, made(finest, total - finest)[0], limit)
            wides = fewest(lambda count: made(finest, count)[0] <= limit, guess, total - finest)
    now, found = made(finest, wides)
    bits = layers_on_16_bits(found)
    wide = [replace(layer, weight_bits=bits[layer.name]) for layer in layers if layer.name in bits]
    floating = [layer for layer in by_rest[:finest] if layer.name not in bits]
    kept = [tuple(sorted(some, key=lambda layer: -layer.drop)) for some in (floating, wide)]
    shares = [_share_of_macs(model, {layer.name for layer in some}) for some in kept]
    return found, Kept(limit, now, drop, kept[0], kept[1], shares[0], shares[1], total)


def fewest(passes: Callable[[int], bool], guess: int, total: int) -> int:
    """The smallest count from 1 to total that passes, looked for from a guess on; 0 is known to fail, total to pass."""
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
    return good


def _guess(gains: Sequence[float], before: float, after: float, limit: float) -> int:
    """How many of the first are needed if errors add up as independent ones do.

    Args:
        gains: what each takes off the drop's square, the largest first.
        before, after: drop with none of them, and with all.
    """
    left = np.concatenate([np.cumsum(np.maximum(gains[::-1], 0))[::-1], [0.0]])
    share = (limit**2 - after**2) / max(before**2 - after**2, 1e-300)
    return int(np.argmax(left <= share * max(left[0], 1e-300)))


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
