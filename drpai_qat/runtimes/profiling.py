"""Times of each kernel while a network runs, beside those of runs without a clock in them.

TVM's machine calls a function before and after each of its calls: a clock in C (backends/cpu/call_clock.py). What a
call of it takes is taken off (report/profile.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drpai_qat.deployment.parameters import aligned
from drpai_qat.runtimes.network import Network, load_runtime

_OF_THE_MACHINE = "vm."
_MOST_EVENTS, _MOST_TEXT = 1 << 20, 1 << 24  # as in call_clock.c
_BEST_OF = 0.3  # seconds


@dataclass(frozen=True, eq=False)
class CallTimes:
    """What was measured.

    Attributes:
        names: symbols of the kernels, in the order in which they ran.
        steps: of each kernel the index of the step that it belongs to.
        step_names: what `main` calls, in order: a kernel, or a function that calls several.
        kernels: microseconds, shape (loops, kernels).
        clocked: microseconds of a run with the clock, from without, shape (loops,).
        whole: microseconds of a run without the clock, shape (loops,); taken in turns with the others.
        calls: of TVM's machine in a run, kernels included; the clock is called twice for each.
        idle: microseconds that a call of the clock takes by itself.
    """

    names: tuple[str, ...]
    steps: tuple[int, ...]
    step_names: tuple[str, ...]
    kernels: NDArray[np.float64]
    clocked: NDArray[np.float64]
    whole: NDArray[np.float64]
    calls: int
    idle: float


class Clocked(Protocol):
    """A network with a clock in it, here or elsewhere."""

    def start(self, naming: int) -> None:
        """Forget what was noted."""

    def run(self) -> float:
        """Run with the clock; microseconds. Elsewhere it runs twice, and the second time counts."""

    def plain_microseconds(self) -> float:
        """Run without it; what that took."""

    def events(self, most: int) -> tuple[NDArray[np.int64], str]:
        """Nanoseconds of at most so many events, and what was noted of names."""

    def idle(self) -> float:
        """Microseconds that a call of the clock takes by itself."""


class Here:
    """A network of this process with the clock."""

    def __init__(self, network: Network, feeds: Mapping[str, NDArray], clock: Path) -> None:
        """Load the clock.

        Raises: DeploymentError: the feeds do not fit.
        """
        self._ffi = load_runtime()
        self._clock = self._ffi.load_module(str(clock))
        self._plain, self._clocked = network.clocked(feeds, self._clock["attach"])

    def start(self, naming: int) -> None:
        """See Clocked."""
        self._clock["start"](naming)

    def run(self) -> float:
        """See Clocked."""
        return _microseconds(self._clocked)

    def plain_microseconds(self) -> float:
        """See Clocked."""
        return _microseconds(self._plain)

    def idle(self) -> float:
        """See Clocked."""
        return int(self._clock["idle"]()) / 1e6

    def events(self, most: int) -> tuple[NDArray[np.int64], str]:
        """See Clocked."""
        times, text = np.zeros(most, np.int64), np.zeros(_MOST_TEXT, np.uint8)
        count = int(self._clock["times"](self._ffi.from_dlpack(times)))
        length = int(self._clock["names"](self._ffi.from_dlpack(text)))
        return times[:count], text[:length].tobytes().decode()


def _microseconds(run: Callable[[], None]) -> float:
    begin = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begin) / 1000


def best_seconds(library: Path, symbol: str, arguments: Sequence[NDArray]) -> float:
    """Seconds that the best of many calls of a function in a library takes, on one thread.

    Args:
        arguments: flat arrays, which it may write.
    """
    ffi = load_runtime()
    function = ffi.load_module(str(library))[symbol]
    tensors = [ffi.from_dlpack(one) for one in _aligned_copies(arguments)]
    best, end = float("inf"), time.perf_counter() + _BEST_OF
    while time.perf_counter() < end or best == float("inf"):
        begin = time.perf_counter()
        function(*tensors)
        best = min(best, time.perf_counter() - begin)
    return best


def _aligned_copies(arrays: Sequence[NDArray]) -> list[NDArray]:
    copies = [aligned(array.shape, array.dtype.name) for array in arrays]
    for copy, array in zip(copies, arrays, strict=True):
        np.copyto(copy, array)
    return copies


def threads() -> int:
    """Threads that TVM uses here."""
    return int(load_runtime().get_global_func("runtime.NumThreads")())


def time_calls(clocked: Clocked, loops: int) -> CallTimes:
    """Measure a network on its sample, with and without the clock in turns."""
    idle = clocked.idle()
    clocked.start(1)
    clocked.run()
    _, text = clocked.events(_MOST_EVENTS)
    marks = text.splitlines()
    spans = _spans(marks)
    names = [marks[first][1:] for first in spans[:, 0]]
    others = [i for i, name in enumerate(names) if not name.startswith(_OF_THE_MACHINE)]
    outer = _outermost(spans, others)
    own = _innermost(spans, others)
    taken, timed, whole = [], [], []
    for _ in range(loops):
        clocked.start(0)
        timed.append(clocked.run())
        times = clocked.events(2 * len(marks))[0][-len(marks) :]
        taken.append((times[spans[own, 1]] - times[spans[own, 0]]) / 1000)
        whole.append(clocked.plain_microseconds())
    steps = [int(np.searchsorted(outer, i, "right")) - 1 for i in own]
    return CallTimes(
        names=tuple(names[i] for i in own),
        steps=tuple(steps),
        step_names=tuple(names[i] for i in outer),
        kernels=np.asarray(taken, np.float64),
        clocked=np.asarray(timed, np.float64),
        whole=np.asarray(whole, np.float64),
        calls=len(spans),
        idle=idle,
    )


def _spans(marks: list[str]) -> NDArray[Any]:
    """Indices of the events before and after each call, in the order of the former; shape (calls, 2)."""
    spans: list[list[int]] = []
    waiting: list[int] = []
    for i, mark in enumerate(marks):
        if mark.startswith("+"):
            waiting.append(len(spans))
            spans.append([i, i])
        else:
            spans[waiting.pop()][1] = i
    return np.asarray(spans, np.int64).reshape(-1, 2)


def _outermost(spans: NDArray[Any], calls: Sequence[int]) -> list[int]:
    """Those of some calls that no other of them contains."""
    found: list[int] = []
    for call in calls:
        if not found or spans[call, 0] > spans[found[-1], 1]:
            found.append(call)
    return found


def _innermost(spans: NDArray[Any], calls: Sequence[int]) -> list[int]:
    """Those that contain no other: of a function in TVM's bytecode its kernels are counted, not itself."""
    following = [*calls[1:], None]
    return [
        call for call, other in zip(calls, following, strict=True) if other is None or spans[other, 0] > spans[call, 1]
    ]
