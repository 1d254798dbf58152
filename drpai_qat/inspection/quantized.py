"""What is quantized in a canonical network, and how: bits, granularity, symmetry, and where the ranges come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Node, Weight
from drpai_qat.graph.network import Storage
from drpai_qat.graph.ranges import MATRIX, selects


@dataclass(frozen=True)
class Kind:
    """Tensors that are quantized alike.

    Attributes:
        count: of them.
        bits: that their values take; 32 for those without a grid.
        dtype: that holds them.
        granularity: "per tensor", "per channel" or "".
        symmetric: zero points are 0.
    """

    count: int
    bits: int
    dtype: str
    granularity: str = ""
    symmetric: bool = False

    def __str__(self) -> str:
        if not self.granularity:
            return f"{self.count} {self.dtype}"
        return f"{self.count} of {self.bits} bits, {self.granularity}, {'' if self.symmetric else 'a'}symmetric"


@dataclass(frozen=True)
class Unranged:
    """A tensor that layers read, and that training left without a range.

    Attributes:
        tensor, op: its name, and the operator that computes it, behind ReLU and moves; "" for a network input.
        readers: number of layers that read it.
        bounded: by its operands' ranges, so that layers read its parts in integers.
    """

    tensor: str
    op: str
    readers: int
    bounded: bool


def kinds_of_weights(graph: Graph) -> tuple[Kind, ...]:
    """Of the constants that layers multiply with."""
    found: Counter[tuple[int, str, str, bool]] = Counter()
    for name in dict.fromkeys(node.inputs[1] for node in graph.nodes if node.op in MATRIX):
        weight = graph.weight(name)
        if weight is not None:
            found[_kind(weight)] += 1
    return _kinds(found)


def _kind(weight: Weight) -> tuple[int, str, str, bool]:
    if weight.params is None:
        return 32, weight.values.dtype.name, "", False
    span = int(weight.values.max(initial=0)) - int(weight.values.min(initial=0))
    bits = span.bit_length() or weight.params.dtype.itemsize * 8
    return bits, weight.params.dtype.name, _granularity(weight.params), weight.params.symmetric


def kinds_of_activations(graph: Graph, storage: Storage) -> tuple[Kind, ...]:
    """Of the tensors with a trained range."""
    found: Counter[tuple[int, str, str, bool]] = Counter()
    for node in graph.nodes:
        if node.op == FAKE_QUANT and node.params is not None:
            params, grid = node.params, storage.grids.get(node.output)
            bits = params.dtype.itemsize * 8
            if grid is not None and grid.qmax - grid.zero_point < params.qmax - int(params.zero_point):
                steps = grid.qmax - grid.qmin
                bits = steps.bit_length() if (steps + 1).bit_count() == 1 or (steps + 2).bit_count() == 1 else bits
            found[bits, params.dtype.name, _granularity(params), _centred(params)] += 1
    return _kinds(found)


def _centred(params: QuantParams) -> bool:
    """Zero lies in the middle of the type, as in int8 without a zero point."""
    middle = 0 if params.dtype.kind == "i" else 1 << (params.dtype.itemsize * 8 - 1)
    return bool((params.zero_point == middle).all())


def _granularity(params: QuantParams) -> str:
    if params.axis is None:
        return "per tensor" if np.ndim(params.scale) <= 1 else "per block"
    return "per channel"


def _kinds(found: Counter[tuple[int, str, str, bool]]) -> tuple[Kind, ...]:
    return tuple(Kind(count, *key) for key, count in found.most_common())


@dataclass(frozen=True)
class Ranges:
    """Where the ranges of what layers read come from; a tensor counts once.

    Attributes:
        trained: a fake-quant of its own.
        inherited: what only moves, selects or clamps values of one that has it.
        bounded: computed from such values: layers read its parts, or an exact integer.
        missing: none.
        unranged: the last two, by name.
    """

    trained: int
    inherited: int
    bounded: int
    missing: int
    unranged: tuple[Unranged, ...]


def ranges_of_inputs(graph: Graph, storage: Storage) -> Ranges:
    """Of the tensors that convolutions and matrix products read, constants aside."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    readers: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op in MATRIX:
            read = (node.inputs[0],) if graph.is_constant(node.inputs[1]) else node.inputs[:2]
            readers.update(name for name in dict.fromkeys(read) if not graph.is_constant(name))
    counts: Counter[str] = Counter()
    unranged: dict[str, Unranged] = {}
    for name, count in readers.items():
        origin = _moved_from(name, makers, storage)
        maker = makers.get(origin)
        if origin in storage.grids:
            counts["trained" if maker is not None and maker.op == FAKE_QUANT else "inherited"] += 1
            continue
        bounded = origin in storage.wide_grids or origin in storage.parting.parts
        counts["bounded" if bounded else "missing"] += 1
        before = unranged.get(origin)
        total = count + (before.readers if before else 0)
        unranged[origin] = Unranged(origin, _computed_by(origin, makers), total, bounded)
    kinds = ("trained", "inherited", "bounded", "missing")
    return Ranges(**{kind: counts[kind] for kind in kinds}, unranged=tuple(unranged.values()))


def _computed_by(name: str, makers: dict[str, Node]) -> str:
    """The operator that a tensor's values come from, behind clamps and what moves them; "" for a network input."""
    maker = makers.get(name)
    while maker is not None and (maker.op in ("Relu", "Clip", "Identity") or selects(maker)):
        maker = makers.get(maker.inputs[0])
    return "" if maker is None else maker.op


def _moved_from(name: str, makers: dict[str, Node], storage: Storage) -> str:
    """The tensor in front of what only moves or selects elements."""
    known = {*storage.grids, *storage.wide_grids, *storage.parting.parts}
    while name not in known and name in makers and (selects(makers[name]) or makers[name].op == "Identity"):
        name = makers[name].inputs[0]
    return name
