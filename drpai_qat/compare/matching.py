"""Which tensors of two networks are the same: by name where names agree, else by structure.

Both networks are walked from their inputs. Two tensors can be the same if they are computed from the same matched
tensors; among several (a chain conv -> batch norm -> ReLU, the branches of a block) the kind of operator, the weights
and the values of one run decide. A tensor without a twin is left out, and the piece around it is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.figures import cosine
from drpai_qat.compare.arrangement import Order, best_order, orders
from drpai_qat.compare.structure import PRODUCT, Feeds, Layer, Side, Structure, frontier, kind_of, region
from drpai_qat.core.errors import ModelError
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.core.text import listed, one_line

_ENOUGH = 0.7
"""Score from which two tensors are taken for the same: equal values alone, or the kind of operator and its weights."""

_SAME_WEIGHTS = 0.9


@dataclass(frozen=True)
class Pair:
    """Two tensors that are the same.

    Attributes:
        ours, theirs: names in A and B.
        order: axes of B's values that make A's order of them; None: equal.
    """

    ours: str
    theirs: str
    order: Order | None


@dataclass(frozen=True)
class Matching:
    """What of two networks is the same.

    Attributes:
        inputs, outputs: network inputs and outputs, B's by A's.
        points: tensors to compare, in A's order of computation.
        layers: pairs of layers (A's, B's) between them.
        unmatched: compared tensors of A without a twin.
    """

    inputs: tuple[Pair, ...]
    outputs: tuple[Pair, ...]
    points: tuple[Pair, ...]
    layers: tuple[tuple[Layer, Layer], ...]
    unmatched: tuple[str, ...]

    def feeds(self, sample: Feeds, theirs: Sequence[TensorInfo]) -> dict[str, NDArray[Any]]:
        """A's network inputs as B takes them."""
        shapes = {info.name: info.shape for info in theirs}
        return {
            pair.theirs: _turned(np.asarray(sample[pair.ours]), pair.order).reshape(shapes[pair.theirs])
            for pair in self.inputs
        }


def _turned(values: NDArray[Any], order: Order | None) -> NDArray[Any]:
    """A's values in B's order."""
    return values if order is None else np.ascontiguousarray(values.transpose(np.argsort(order)))


def pair_ends(side: str, ours: Sequence[TensorInfo], theirs: Sequence[TensorInfo]) -> tuple[Pair, ...]:
    """Network inputs or outputs of both sides, by name or else by place.

    Args:
        side: "inputs" or "outputs", for messages.
    Raises: ModelError: there are not as many, or a shape is another.
    """
    if len(ours) != len(theirs):
        told = ", ".join(one_line(info.name) for info in ours), ", ".join(one_line(info.name) for info in theirs)
        raise ModelError(f"A has {len(ours)} {side} ({told[0]}), B {len(theirs)} ({told[1]}): not the same network")
    names = {info.name: info for info in theirs}
    by_name = {info.name for info in ours} == set(names)
    pairs = []
    for index, info in enumerate(ours):
        other = names[info.name] if by_name else theirs[index]
        found = orders(other.shape, info.shape)
        if not found:
            raise ModelError(
                f"{side[:-1]} {one_line(info.name)!r} of A is {list(info.shape)}, {one_line(other.name)!r} of B "
                f"{list(other.shape)}: not the same network, or not the same batch"
            )
        pairs.append(Pair(info.name, other.name, found[0]))
    return tuple(pairs)


def match(a: Side, b: Side, sample: Feeds) -> Matching:
    """Find the tensors that are the same.

    Args:
        sample: network inputs of A.
    Raises: ModelError: the two have nothing in common.
    """
    inputs, outputs = pair_ends("inputs", a.inputs, b.inputs), pair_ends("outputs", a.outputs, b.outputs)
    begun = Matching(inputs, outputs, (), (), ())
    ours, theirs = a.structure, b.structure
    wanted = [name for name in ours.points if name in ours.tensors]
    candidates = [name for name, one in theirs.tensors.items() if _may_be_compared(theirs, name) and one.op]
    values = a.exposed(wanted)(sample)
    others = b.exposed(candidates)(begun.feeds(sample, b.inputs))
    pairs = {pair.ours: pair for pair in _start(a, b, inputs)}
    for name, other in _namesakes(ours, theirs, wanted, candidates):
        if theirs.tensors[other].size == ours.tensors[name].size:
            score, order = best_order(others[other], values[name])
            if score >= 0:
                pairs[name] = Pair(name, other, order)
    _grow(ours, theirs, values, others, pairs)
    points = tuple(pairs[name] for name in wanted if name in pairs)
    layers = _layer_pairs(ours, theirs, points, {pair.ours: pair for pair in pairs.values()})
    found = Matching(inputs, outputs, points, layers, tuple(name for name in wanted if name not in pairs))
    _refuse_strangers(a, b, found, values, others)
    return found


def _namesakes(
    ours: Structure, theirs: Structure, wanted: Sequence[str], candidates: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Tensors of one name; or one is, or both are, the rounding of that name."""
    yours = {theirs.tensors[name].rounds: name for name in candidates if theirs.tensors[name].rounds}
    yours |= {name: name for name in candidates if name not in yours}
    for name in wanted:
        known = ours.tensors[name].rounds
        other = name if name in candidates else yours.get(known or name)
        if other is not None:
            yield name, other


def _may_be_compared(structure: Structure, name: str) -> bool:
    """Quantized tensors and network outputs; of a network without grids, everything."""
    tensor = structure.tensors[name]
    if name in structure.points:
        return True
    return tensor.grid is not None if any(one.grid is not None for one in structure.tensors.values()) else True


def _start(a: Side, b: Side, inputs: Sequence[Pair]) -> list[Pair]:
    """The network inputs as tensors of the two structures."""
    ours = [name for name, one in a.structure.tensors.items() if not one.op]
    theirs = [name for name, one in b.structure.tensors.items() if not one.op]
    place = {info.name: index for index, info in enumerate(b.inputs)}
    return [Pair(ours[i], theirs[place[pair.theirs]], pair.order) for i, pair in enumerate(inputs)]


def _grow(ours: Structure, theirs: Structure, values: Feeds, others: Feeds, pairs: dict[str, Pair]) -> None:
    """Match what is computed from matched tensors, until nothing more is found."""
    while True:
        taken = {pair.theirs: name for name, pair in pairs.items()}
        left: dict[frozenset[str], list[str]] = {}
        for name in others:
            if name not in taken:
                left.setdefault(frozenset(taken[one] for one in frontier(theirs, name, taken)), []).append(name)
        groups: dict[frozenset[str], list[str]] = {}
        for name in values:
            if name not in pairs:
                groups.setdefault(frontier(ours, name, pairs), []).append(name)
        found = False
        for source, names in groups.items():
            scored = [
                (*_score(ours, theirs, name, other, values, others, pairs, taken), name, other)
                for name in names
                for other in left.get(source, ())
                if ours.tensors[name].size == theirs.tensors[other].size
            ]
            best = max(scored, key=lambda one: one[0], default=None)
            if best is not None and best[0] >= _ENOUGH:
                _, order, name, other = best
                pairs[name] = Pair(name, other, order)
                found = True
        if not found:
            return


def _score(
    ours: Structure, theirs: Structure, name: str, other: str, values: Feeds, others: Feeds,
    pairs: Mapping[str, Pair], taken: Mapping[str, str],
) -> tuple[float, Order | None]:  # fmt: skip
    score, order = best_order(others[other], values[name])
    if score == -1.0:
        return -1.0, None
    if kind_of(ours.tensors[name].op) == kind_of(theirs.tensors[other].op):
        score += 0.3
    if _same_grid(ours.tensors[name].grid, theirs.tensors[other].grid):
        score += 0.4
    mine = [ours.layers[one] for one in region(ours, name, pairs) if one in ours.layers]
    yours = [theirs.layers[one] for one in region(theirs, other, taken) if one in theirs.layers]
    if len(mine) == len(yours) == 1 and kind_of(ours.tensors[name].op) == PRODUCT:
        score += 0.5 if likeness(mine[0], yours[0]) > _SAME_WEIGHTS else 0.0
    return score, order


def _same_grid(one: QuantParams | None, other: QuantParams | None) -> bool:
    """Scales that differ by roundings at most."""
    if one is None or other is None or one.scale.size != other.scale.size:
        return False
    return bool(np.allclose(one.scale, other.scale, rtol=1e-5, atol=0))


def likeness(one: Layer, other: Layer) -> float:
    """How alike the weights of two layers are: their cosine, whatever the scale of each channel."""
    if one.weights.shape != other.weights.shape:
        return -1.0
    ours, theirs = (_unit_rows(layer.real) for layer in (one, other))
    return cosine(ours, theirs)


def _unit_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)


def _layer_pairs(
    ours: Structure, theirs: Structure, points: Sequence[Pair], pairs: Mapping[str, Pair]
) -> tuple[tuple[Layer, Layer], ...]:
    found: dict[str, tuple[Layer, Layer]] = {}
    taken = {pair.theirs: pair.ours for pair in pairs.values()}
    for pair in points:
        mine = [ours.layers[one] for one in region(ours, pair.ours, pairs) if one in ours.layers]
        yours = [theirs.layers[one] for one in region(theirs, pair.theirs, taken) if one in theirs.layers]
        if len(mine) == len(yours):
            for layer in mine:
                twin = max(yours, key=lambda one: likeness(layer, one))
                found.setdefault(layer.output, (layer, twin))
    return tuple(found.values())


def _refuse_strangers(a: Side, b: Side, found: Matching, values: Feeds, others: Feeds) -> None:
    """Two networks that merely take the same input."""
    if any(likeness(*layers) > 0.5 for layers in found.layers):
        return
    near = [best_order(others[pair.theirs], values[pair.ours])[0] for pair in found.points]
    if not near or max(near) < _SAME_WEIGHTS or (a.structure.layers and b.structure.layers and not found.layers):
        names = listed([one_line(name) for name in found.unmatched], 2)
        raise ModelError(
            f"{a.name} and {b.name} have no layer in common{f' ({names} ...)' if names else ''}: give two files of one "
            "network"
        )
