"""How long a network takes on a board at the least: its multiply-accumulates alone, at the most that a core can do.

    seconds >= sum over layers of macs / (macs in a cycle) / clock

A bound, and no measurement: conversions, loads, caches, memory and threads come on top. It holds because no algorithm
here needs fewer products than a layer has on these targets (Winograd's is for x86 alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpai_qat.report.layers import Layer


@dataclass(frozen=True)
class Core:
    """The cores of a board.

    Attributes:
        name, count: what they are, and how many.
        clock: Hz.
        per_cycle: multiply-accumulates of one core in a cycle, by `Layer.compute`.
    """

    name: str
    count: int
    clock: float
    per_cycle: Mapping[str, int]


# One 128-bit vector operation a cycle: SDOT of 16 products; two for 16-bit activations, by their bytes; FMLA of 4.
_A55 = Core("Cortex-A55", 4, 1.7e9, {"int8": 16, "int16": 8, "float32": 4, "tvm": 4})
_BOARDS = {"rzv2h": _A55, "rzv2n": _A55}


@dataclass(frozen=True)
class Estimate:
    """The least time of a run.

    Attributes:
        core: of the board.
        cycles: of one core, by layer.
    """

    core: Core
    cycles: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """On one core."""
        return 1e3 * sum(self.cycles) / self.core.clock

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "core": self.core.name, "cores": self.core.count, "clock_ghz": self.core.clock / 1e9,
            "macs_per_cycle": dict(self.core.per_cycle), "least_ms_on_one_core": round(self.milliseconds, 3),
            "least_ms_on_all_cores": round(self.milliseconds / self.core.count, 3),
            "least_us_by_layer": [round(1e6 * one / self.core.clock, 2) for one in self.cycles],
        }  # fmt: skip


def estimate(layers: Sequence[Layer], target: str) -> Estimate | None:
    """The bound of a network on a target; None where that is no board, or there are no products."""
    core = _BOARDS.get(target)
    if core is None or not any(layer.macs for layer in layers):
        return None
    return Estimate(core, tuple(layer.macs / core.per_cycle.get(layer.compute, 16) for layer in layers))
