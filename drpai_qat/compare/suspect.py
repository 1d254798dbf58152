"""The layer that diverges first, as experiments look at it, and what they may find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drpai_qat.compare.layers import LayerComparison, LayerFigures, Reals, Seen
from drpai_qat.compare.matching import Matching
from drpai_qat.compare.parameters import Parameters
from drpai_qat.compare.structure import Feeds, Layer, Side
from drpai_qat.core.quantization import QuantParams

EXPLAINED = 0.95
"""Share of the wrong values that must be right under a changed assumption."""


@dataclass(frozen=True)
class Cause:
    """What makes a layer diverge.

    Attributes:
        name: of the documented list.
        evidence: what the experiment showed.
    """

    name: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}"


@dataclass(frozen=True, eq=False)
class Suspect:
    """The layer in question, and everything the experiments need.

    Attributes:
        seen: its values in one sample.
        layers: A's and B's layer with weights in it, where there is one.
        first: it is computed from network inputs.
    """

    a: Side
    b: Side
    matching: Matching
    parameters: Parameters
    comparison: LayerComparison
    sample: Feeds
    figures: LayerFigures
    seen: Seen
    layers: tuple[Layer, Layer] | None
    first: bool

    @property
    def wrong(self) -> int:
        """How many values are to be explained."""
        return int(self.seen.wrong.sum())

    def right(self, expected: Reals) -> float:
        """Share of the wrong values that B has right if these integers are expected."""
        mask = self.seen.wrong
        return float((self._apart(expected)[mask] < 0.51).mean()) if mask.any() else 0.0

    def spoiled(self, expected: Reals) -> float:
        """Share of the right values that would be wrong by more than a step then."""
        mask = ~self.seen.wrong
        return float((self._apart(expected)[mask] > 1.01).mean()) if mask.any() else 0.0

    def equal(self, expected: Reals) -> float:
        """Share of all values that are these."""
        return float((self._apart(expected) < 0.51).mean())

    def _apart(self, expected: Reals) -> Reals:
        """How far B's values are from these, in steps."""
        return np.abs(expected - self.seen.found) / (1.0 if self.grid is not None else self.figures.lsb)

    def explained(self, expected: Reals) -> bool:
        """B's values are these, all but a few."""
        return self.right(expected) >= EXPLAINED and self.spoiled(expected) <= 1 - EXPLAINED

    @property
    def grid(self) -> QuantParams | None:
        """Of A's tensor; None where it has none per tensor."""
        found = self.a.structure.tensors[self.figures.pair.ours].grid
        return None if found is None or found.per_channel else found

    def rounded(self, steps: Reals) -> Reals:
        """As A rounds them: half to even, within the range."""
        return steps if self.grid is None else np.clip(np.rint(steps), self.grid.qmin, self.grid.qmax)
