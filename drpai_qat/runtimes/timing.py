"""How long runs of a network take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.tensor_info import TensorInfo, as_fed


@dataclass(frozen=True)
class Timing:
    """Times of runs.

    Attributes:
        milliseconds: of each timed run.
        batch: number of inputs that a run takes.
    """

    milliseconds: Sequence[float]
    batch: int

    @property
    def per_second(self) -> float:
        """Inputs a second."""
        return 1000 * self.batch * len(self.milliseconds) / sum(self.milliseconds)

    def to_json(self) -> dict[str, Any]:
        """For --json; milliseconds."""
        times = self.milliseconds
        return {
            "runs": len(times),
            "min_ms": min(times),
            "median_ms": statistics.median(times),
            "p99_ms": float(np.percentile(times, 99)),
            "max_ms": max(times),
            "per_second": self.per_second,
        }

    def __str__(self) -> str:
        found = self.to_json()
        told = ", ".join(f"{name} {found[f'{name}_ms']:.3f} ms" for name in ("min", "median", "p99", "max"))
        return f"latency: {told}\n         ({found['runs']} runs); {found['per_second']:.1f} inferences/s"


def measure(
    run: Callable[[Mapping[str, NDArray]], object],
    feeds: Mapping[str, NDArray],
    inputs: Sequence[TensorInfo],
    loops: int,
    warm_up: int,
    times: Callable[[Mapping[str, NDArray], int], list[float]] | None = None,
) -> Timing:
    """Time runs, after some that fill caches and pools and are not counted.

    Args:
        run: the network.
        feeds: its inputs.
        inputs: what they are; reals are rounded to the grid of integer ones before the clock starts.
        times: measures in milliseconds where the network is, for one that is elsewhere; None: here.
    """
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if times is not None:
        return Timing(times(feeds, warm_up + loops)[warm_up:], batch)
    feeds = {info.name: as_fed(feeds[info.name], info) for info in inputs}
    for _ in range(warm_up):
        run(feeds)
    found = []
    for _ in range(loops):
        start = time.perf_counter()
        run(feeds)
        found.append(1000 * (time.perf_counter() - start))
    return Timing(found, batch)
