"""What the passes over data have shown so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drpai_qat.calibration.collection import Found
from drpai_qat.calibration.observers import BINS, Ends, Histogram


@dataclass(frozen=True)
class Mark:
    """How far a pass is.

    Attributes:
        frames: that are done.
        sha256: of these, in their order.
    """

    frames: int = 0
    sha256: str = ""


@dataclass
class Seen:
    """What the passes have shown by now.

    Attributes:
        names: of the tensors.
        ends: of each.
        counts, zeros: of the histogram of each, shapes (tensors, BINS) and (tensors,).
        whole: all frames, once the first pass is over.
        mark: how far the pass at hand is.
    """

    names: tuple[str, ...]
    ends: list[Ends]
    counts: NDArray[np.int64]
    zeros: NDArray[np.int64]
    whole: Mark | None = None
    mark: Mark = field(default_factory=Mark)

    @classmethod
    def nothing(cls, names: tuple[str, ...]) -> Seen:
        """Before the first frame."""
        count = len(names)
        return cls(names, [Ends() for _ in names], np.zeros((count, BINS), np.int64), np.zeros(count, np.int64))

    def add(self, found: Found, mark: Mark) -> None:
        """What the next frames have shown."""
        if self.whole is None:
            for frame in found[0]:
                for ends, (low, high) in zip(self.ends, frame, strict=True):
                    ends.see(float(low), float(high))
        else:
            self.counts += found[0]
            self.zeros += found[1]
        self.mark = mark

    def end_first_pass(self) -> Mark:
        """The first pass is over; returns how far it got."""
        if self.whole is None:
            self.whole, self.mark = self.mark, Mark()
        return self.whole

    def ends_by_name(self) -> dict[str, Ends]:
        """Ends of the tensors that held a finite value."""
        return {name: one for name, one in zip(self.names, self.ends, strict=True) if one.seen}

    def histograms(self, ends: Mapping[str, Ends]) -> dict[str, Histogram]:
        """The histograms of tensors, which were counted between these ends."""
        at = {name: index for index, name in enumerate(self.names)}
        return {
            name: Histogram(one.low, one.high, self.counts[at[name]].copy(), int(self.zeros[at[name]]))
            for name, one in ends.items()
        }
