"""The base of all arithmetics: how a tile's operands are walked; the arithmetics themselves are in `products.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import Index
from drpai_qat.kernels.isa import Isa, Vector, element, spread, vector

Integers = npt.NDArray[np.int32]


class Product(ABC):
    """One way to multiply. Instances are values: frozen, equal where their class and fields are.

    There are two ways to walk a tile. *By pixel*: the weights of all its vectors stay in registers, and the activations
    of one pixel, copied to every lane, serve all of them (`_inputs`). *By lane*, where an instruction multiplies by any
    element of a register: the activations of all pixels stay, several steps at a time, and the weights of one vector
    serve all of them (`_loaded`, `_lane`).

    Attributes:
        name: as tests and benchmarks write it.
        pack: neighbouring channels that one 32-bit lane takes in.
        in_dtype, weight_dtype: of the operands as stored.
        acc_dtype: of the accumulators.
        steps: products that are added in int16 before they are widened; 1 where the hardware accumulates in int32.
        guard: whether so many fit int16 is looked up in the activations while the network runs (`guard.py`).
        planes: accumulators of one output while products are added.
        scratch: registers of a tile walked by pixel, besides its accumulators and weights.
    """

    name: str
    pack: int
    in_dtype: str
    weight_dtype: str
    acc_dtype = "int32"
    steps = 1
    guard = False
    planes = 1
    scratch = 4

    def by_lane(self, isa: Isa) -> bool:
        """Tiles are walked by lane."""
        return False

    def groups(self, isa: Isa, steps: int) -> list[tuple[int, int]]:
        """(steps taken together, how often) that cover so many steps, in order."""
        if not self.by_lane(isa):
            group = self.steps if steps % self.steps == 0 else 1
            return [(group, steps // group)]
        parts = [(4, steps // 4), (2, steps % 4 // 2), (1, steps % 2)]
        return [(group, count) for group, count in parts if count]

    def registers(self, isa: Isa, pixels: int, vectors: int) -> int:
        """Registers that a tile takes, accumulators included."""
        if self.by_lane(isa):
            # Activations of all pixels; weights, and room for LLVM to load ahead (with less it spills).
            return self.planes * pixels * vectors + self.planes * pixels + 6
        return pixels * vectors + self._beside(isa, pixels, vectors)

    def _beside(self, isa: Isa, pixels: int, vectors: int) -> int:
        """Registers of a tile walked by pixel, besides its accumulators."""
        return vectors + self.scratch

    def weight_loads(self, isa: Isa) -> int:
        """Time that one load of weights takes beside one of activations."""
        # On a Cortex-A55 a load takes the time of two products, and activations last longer.
        return 4 if self.by_lane(isa) else 1

    def start(self, weights: npt.NDArray[np.generic], bias: Integers | None) -> Integers | None:
        """Start values of the accumulators, shape (out_channels,), where `bias` is added to the sum of products."""
        return bias

    @contextmanager
    def sums(self, isa: Isa, acc: Any, size: int) -> Iterator[Any]:
        """The buffer that `accumulate` adds to; where it is not `acc` (of `size` accumulators), it ends up there."""
        yield acc

    def accumulate(
        self,
        isa: Isa,
        acc: Any,
        data: Any,
        weights: Any,
        bases: list[Index],
        offset: Index,
        weight: Index,
        vectors: int,
        group: int,
        apart: int = 1,
    ) -> None:
        """Add `group` steps of pack channels each to every accumulator of the tile.

        Args:
            acc: the buffer that `sums` gave, [plane][pixel][vector][lane].
            data, weights: the buffers of the operands.
            bases: input offset of each pixel.
            offset: of this step within each pixel's input.
            weight: of this step in the weights.
            vectors: registers of output channels in the tile.
            group: steps taken together, as `groups` says.
            apart: from one of these steps to the next, in steps.
        """
        if self.by_lane(isa):
            starts = [base + offset for base in bases]
            self._accumulate_by_lane(isa, acc, data, weights, starts, weight, vectors, group)
            return
        lanes, pack = isa.lanes, self.pack
        width = vectors * lanes * pack
        firsts = [[weight + g * apart * width + j * lanes * pack for g in range(group)] for j in range(vectors)]
        columns = [[T.Bind(self._factors(weights, first, lanes * pack)) for first in steps] for steps in firsts]
        # Pixels outside: the weights of all vectors stay in registers, an activation lives for one pixel.
        for i, base in enumerate(bases):
            inputs = [T.Bind(x) for x in self._inputs(isa, data, base + offset, group, apart)]
            for j in range(vectors):
                index = tirx.Ramp((i * vectors + j) * lanes, 1, lanes)
                T.buffer_store(acc, self.multiply(isa, acc[index], inputs, columns[j]), [index])

    def _accumulate_by_lane(
        self,
        isa: Isa,
        acc: Any,
        data: Any,
        weights: Any,
        starts: list[Index],
        weight: Index,
        vectors: int,
        group: int,
    ) -> None:
        # Steps outside: the activations of all pixels stay in registers, the weights of one step at a time.
        width = isa.lanes * self.pack
        loaded = self._loaded(
            [T.Bind(data.vload([start], vector(self.in_dtype, self.pack * group))) for start in starts]
        )
        for g in range(group):
            for j in range(vectors):
                w = T.Bind(self._factors(weights, weight + (g * vectors + j) * width, width))
                for i, x in enumerate(loaded):
                    index = tirx.Ramp((i * vectors + j) * isa.lanes, 1, isa.lanes)
                    T.buffer_store(acc, self._multiply_step(isa, acc[index], self._lane(isa, x, g, group), w), [index])

    def _factors(self, weights: Any, start: Index, count: int) -> Vector:
        """Weights as they are multiplied."""
        return weights.vload([start], vector(self.weight_dtype, count))

    def _inputs(self, isa: Isa, data: Any, start: Index, group: int, apart: int) -> list[Vector]:
        """By pixel: the activations of each step, the same in every lane."""
        parts = self._parts(data, start, group, apart)
        return [spread(part, vector(self.in_dtype, isa.lanes * self.pack), isa.lanes) for part in parts]

    def _parts(self, data: Any, start: Index, group: int, apart: int) -> list[Vector]:
        """The activations of each step."""
        return [data.vload([start + g * apart * self.pack], vector(self.in_dtype, self.pack)) for g in range(group)]

    def _loaded(self, activations: list[Vector]) -> list[Vector]:
        """By lane: the activations of all pixels, plane by plane, as `_lane` takes them: four bytes are one int32."""
        return [T.Bind(T.reinterpret(x, dtype=vector("int32", x.ty.dtype.lanes // 4))) for x in activations]

    def _lane(self, isa: Isa, x: Vector, step: int, group: int) -> Any:
        """By lane: the activations of one step of the `group` that `x` holds."""
        return T.reinterpret(element(x, step, group, isa.lanes), dtype=vector("int8", 4 * isa.lanes))

    def multiply(self, isa: Isa, acc: Vector, inputs: list[Vector], columns: list[Vector]) -> Vector:
        """By pixel: `acc` plus the products of one group of steps."""
        for x, w in zip(inputs, columns, strict=True):
            acc = self._multiply_step(isa, acc, x, w)
        return acc

    @abstractmethod
    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        """`acc` plus the products of one step: activations that every lane has, and weights."""
