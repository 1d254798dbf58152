"""Tensors without a grid of their own that are read by their parts, each of which has one.

    conv(a + b)         = conv(a) + conv(b)
    conv(concat(a, b))  = conv_a(a) + conv_b(b)     (each with its own channels of the weights)

A residual sum without a FakeQuant behind it lies on no grid: its operands do, each on its own. Stored in int16 it would
be rounded once more, and in a deep network such roundings flip others. Read part by part every product is exact, and
8-bit parts multiply faster than an int16 sum. Elementwise readers add the parts themselves; others read the sum in
float32.

- Sums and concatenations are not computed at all.
- A ReLU behind a sum lets the sum through or not, and with it each of the parts:

      relu(a + b) = a' + b'       a' = a where a + b > 0, else 0

  What is stored are a' and b', on the grids of a and b (`Masked`).
- Anything else that is bounded (SiLU, products of two grids, sums of more parts than pay) becomes an integer of 24
  bits, as fine as float32, whose bytes are stored (`Planes`).
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field, replace

from drpai_qat.graph.canonical import Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.operators import is_elementwise
from drpai_qat.graph.ranges import Bounds, clip_limits
from drpai_qat.graph.wide_grids import exact_steps

MOST_PARTS = 4  # a part costs a convolution's pass over its weights, and code
BYTES = 3  # of a tensor stored as planes
LEAST_REDUCTION = 8  # products in a part's accumulator; below, adding up the parts costs more than their products


@dataclass(frozen=True)
class Part:
    """A stored tensor that another is made of: it adds to channels start .. start + channels."""

    name: str
    start: int
    channels: int


@dataclass(frozen=True)
class Masked:
    """A sum behind a ReLU.

    Attributes:
        sum: the sum's name; it is computed in the kernel that stores the parts.
        leaves: its parts, each stored where the sum is positive and its zero elsewhere.
    """

    sum: str
    leaves: tuple[str, ...]


@dataclass(frozen=True)
class Planes:
    """Integers of `BYTES` bytes, stored byte by byte: real = scale * (integer - zero_point)."""

    scale: float
    zero_point: int
    largest: int

    def grid(self, byte: int, activation: str) -> Grid:
        """The grid of a byte, the lowest is 0."""
        zero_point = self.zero_point >> 8 * byte & 255
        return Grid(self.scale * 256.0**byte, zero_point, 0, 255, "uint8").as_dtype(activation)


Parts = dict[str, tuple[Part, ...]]


@dataclass
class Parting:
    """How tensors without a grid are read.

    Attributes:
        parts: of tensors that are read by their parts.
        stored: those among them that a kernel computes, and how it stores their parts; others are not computed.
        grids: of the stored parts.
    """

    parts: Parts = field(default_factory=dict)
    stored: dict[str, Masked | Planes] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)

    def drop_unread(self, read: set[str]) -> None:
        """Forget the parts of computed tensors of which no convolution reads any: those are stored in float32.

        Args:
            read: names of all tensors and parts that convolutions read.
        """
        used = read | {leaf for how in self.stored.values() if isinstance(how, Masked) for leaf in how.leaves}
        virtual = [parts for name, parts in self.parts.items() if name not in self.stored]
        used |= {part.name for parts in virtual for part in parts}
        unread = [name for name in self.stored if not any(part.name in used for part in self.parts[name])]
        for name in unread:
            del self.parts[name], self.stored[name]
        if unread:
            self.drop_unread(read)


def find_parts(
    graph: Graph,
    grids: dict[str, Grid],
    wide: Container[str],
    bounds: dict[str, Bounds],
    activation: str,
    exact_sums: bool = True,
) -> Parting:
    """Which tensors are read by their parts: those that a convolution reads so.

    Args:
        wide: tensors that may be stored on int16 grids.
        activation: type of 8-bit activations.
        exact_sums: store what must be computed by its parts; False: only what need not be computed is read so.
    """
    return _Search(graph, grids, wide, bounds, activation, exact_sums).run()


class _Search:
    """Goes through the nodes in order; each tensor's form depends on what its operands can be."""

    def __init__(
        self,
        graph: Graph,
        grids: dict[str, Grid],
        wide: Container[str],
        bounds: dict[str, Bounds],
        activation: str,
        exact_sums: bool,
    ) -> None:
        self.exact_sums = exact_sums
        self.graph, self.grids, self.wide, self.bounds, self.activation = graph, grids, wide, bounds, activation
        self.consumers = graph.consumers()
        self.producers = {name: node for node in graph.nodes for name in node.outputs}
        self.found = Parting()
        self.candidates: Parts = {}
        self.sums: set[str] = set()  # of them those that elementwise operators can add up

    def run(self) -> Parting:
        for node in self.graph.nodes:
            if len(self.graph.shapes.get(node.output, ())) > 1:
                self._visit(node)
        self._keep_what_is_read()
        return self.found

    def _visit(self, node: Node) -> None:
        name = node.output
        if name in self.grids or self.graph.dtypes.get(name, "float32") != "float32":
            return
        parts = self._virtual(node)
        if parts is not None:
            self.candidates[name] = parts
            if node.op != "Concat":
                self.sums.add(name)
            return
        if not self.exact_sums or name in self.wide or not self._feeds_layers(name):
            return
        masked = self._masked(node)
        if masked is not None:
            self._store(name, masked, [self._grid(leaf) for leaf in masked.leaves])
            return
        planes = self._planes(node)
        if planes is not None:
            self._store(name, planes, [planes.grid(byte, self.activation) for byte in reversed(range(BYTES))])

    def _virtual(self, node: Node) -> tuple[Part, ...] | None:
        """The parts of a sum or a concatenation; None where it has other operands, or too many."""
        shape = self.graph.shapes[node.output]
        if node.op in ("Add", "Sum") and len(node.inputs) > 1:
            if any(self.graph.shapes[name] != shape or self.graph.is_constant(name) for name in node.inputs):
                return None
            if any(name in self.candidates and name not in self.sums for name in node.inputs):
                return None
            leaves = [self._parts(name, 0) for name in node.inputs]
        elif node.op == "Concat" and node.attributes.get("axis") in (1, 1 - len(shape)):
            leaves, start = [], 0
            for name in node.inputs:
                leaves.append(self._parts(name, start, wide=True))
                start += self.graph.shapes[name][1]
        else:
            return None
        parts = [part for leaf in leaves for part in leaf]
        return tuple(parts) if all(leaves) and len(parts) <= MOST_PARTS else None

    def _parts(self, name: str, start: int, wide: bool = False) -> tuple[Part, ...]:
        """What a tensor adds to a sum or a concatenation; nothing where it has no usable grid.

        Args:
            wide: int16 will do; in a sum it would cost as much as the sum in int16.
        """
        if self.graph.is_constant(name):
            return ()
        inner = self.found.parts.get(name) or self.candidates.get(name)
        if inner:
            return tuple(replace(part, start=part.start + start) for part in inner)
        grid = self.grids.get(name)
        eight_bits = grid is not None and grid.dtype in ("int8", "uint8")
        if not eight_bits and not (wide and (grid is not None or name in self.wide)):
            return ()
        return (Part(name, start, self.graph.shapes[name][1]),)

    def _grid(self, leaf: str) -> Grid:
        return self.grids.get(leaf) or self.found.grids[leaf]

    def _feeds_layers(self, name: str) -> bool:
        channels = self.graph.shapes[name][1]
        own = (Part(name, 0, channels),)
        return any(takes_parts(self.graph, reader, name, own) for reader in self.consumers.get(name, []))

    def _masked(self, node: Node) -> Masked | None:
        """A ReLU behind a sum that nobody else reads."""
        limits = clip_limits(self.graph, node)
        if limits is None or limits[0] != 0.0:
            return None
        sum_name = next((name for name in node.inputs if name in self.sums and name in self.candidates), None)
        if sum_name is None or len(self.consumers[sum_name]) > 1 or sum_name in self.graph.outputs:
            return None
        if any(name in self.candidates for name in self.producers[sum_name].inputs):
            return None  # whose parts may not be stored
        high = self.bounds.get(sum_name, (0.0, math.inf))[1]
        parts = self.candidates[sum_name]
        if limits[1] < high or len(parts) > BYTES or len({part.name for part in parts}) < len(parts):
            return None
        return Masked(sum_name, tuple(part.name for part in parts))

    def _planes(self, node: Node) -> Planes | None:
        name = node.output
        if name not in self.bounds:
            return None
        low, high = self.bounds[name]
        most = 2 ** (8 * BYTES) - 1
        exact = exact_steps(self.graph, node, self.grids)
        if exact is not None and 2 * exact[1] <= most:
            return Planes(exact[0], exact[1], 2 * exact[1])
        low, high = min(low, 0.0), max(high, 0.0)
        if high <= low:
            return None
        scale = (high - low) / (most - 1)  # a step less, for the rounding of the ends
        zero_point = math.ceil(-low / scale)
        return Planes(scale, zero_point, most)

    def _store(self, name: str, how: Masked | Planes, grids: list[Grid]) -> None:
        shape = self.graph.shapes[name]
        parts = []
        for i, grid in enumerate(grids):
            part = Part(f"{name}::{i}", 0, shape[1])
            self.graph.shapes[part.name], self.graph.dtypes[part.name] = shape, "float32"
            self.found.grids[part.name] = grid
            parts.append(part)
        self.found.parts[name], self.found.stored[name] = tuple(parts), how
        self.sums.add(name)

    def _keep_what_is_read(self) -> None:
        """Sums and concatenations of which a reader takes the parts, or makes one of them that is kept."""
        masked = {how.sum for how in self.found.stored.values() if isinstance(how, Masked)}
        for node in reversed(self.graph.nodes):
            name = node.output
            if name not in self.candidates or name in masked:
                continue
            readers = self.consumers.get(name, [])
            kept = [reader.output in self.found.parts and reader.output in self.candidates for reader in readers]
            convolutions = [takes_parts(self.graph, reader, name, self.candidates[name]) for reader in readers]
            elementwise = [name in self.sums and is_elementwise(self.graph, reader) for reader in readers]
            if (
                all(any(ways) for ways in zip(kept, convolutions, elementwise, strict=True))
                and (any(convolutions) or any(kept))
                and name not in self.graph.outputs
            ):
                self.found.parts[name] = self.candidates[name]


def _takes_rows(graph: Graph, node: Node, name: str) -> bool:
    """A Gemm or MatMul with integer weights, at most one scale per output channel, whose first operand this is."""
    if node.op not in ("Gemm", "MatMul") or node.inputs[0] != name or node.attributes.get("transA", 0):
        return False
    weight, shape = graph.weight(node.inputs[1]), graph.shapes[node.inputs[1]]
    if weight is None or weight.integers is None or weight.params is None:
        return False
    if math.prod(shape[:-2]) != 1 or len(shape) > len(graph.shapes[name]):
        return False
    transposed = node.op == "Gemm" and bool(node.attributes.get("transB", 0))
    return weight.params.axis in (None, 0 if transposed else len(shape) - 1)


def takes_parts(graph: Graph, node: Node, name: str, parts: tuple[Part, ...]) -> bool:
    """A layer with integer weights, at most one scale per output channel; a convolution reads all channels at once."""
    if _takes_rows(graph, node, name):
        return all(part.channels == graph.shapes[name][1] for part in parts)
    if node.op != "Conv" or node.inputs[0] != name or node.attributes.get("group", 1) != 1:
        return False
    weight = graph.weight(node.inputs[1])
    if weight is None or weight.integers is None or weight.params is None or weight.params.axis not in (None, 0):
        return False
    taps = math.prod(weight.shape[2:])
    return all(taps * part.channels >= LEAST_REDUCTION for part in parts)
