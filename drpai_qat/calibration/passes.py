"""A pass over data. Its frames are shared among threads, processes or machines, and what they find is put together in
the order of the frames: the same to the bit, whoever found it."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np

from drpai_qat.calibration.collection import Found, Frame, Observed, Shard
from drpai_qat.calibration.observers import Ends
from drpai_qat.calibration.seen import Mark, Seen
from drpai_qat.calibration.unfinished import Unfinished
from drpai_qat.core.progress import Stages, counted, step
from drpai_qat.core.workers import Sharing, Workers, shared

_MOST_THREADS = 8
_MOST_BYTES = 2 << 30  # of observed tensors in all threads
_SENT_FRAMES, _SENT_BYTES = 8, 8 << 20
"""Of a shard that is sent elsewhere, at most: what is lost with a worker, and is under way for each of them."""


class OtherFramesError(Exception):
    """The frames are not those of the pass that was interrupted."""


@dataclass(frozen=True, eq=False)
class Passes:
    """Runs passes over the same data.

    Attributes:
        workers: who look at the frames.
        frames: the data; iterated once for each pass.
        total: how many there are, or more; None: not known.
        most: frames of a shard.
        unfinished: where an interrupted pass is recorded; None: nowhere.
    """

    workers: Workers[Shard, Found]
    frames: Iterable[Frame]
    total: int | None
    most: int
    unfinished: Unfinished | None

    @classmethod
    def of(cls, observed: Observed, frames: Iterable[Frame], sharing: Sharing, unfinished: Unfinished | None) -> Passes:
        """Find workers, who are to be closed in the end."""
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS, _MOST_BYTES // max(observed.bytes, 1))
        workers: Workers[Shard, Found] = shared(observed, sharing, max(threads, 1))
        total, most = expected(frames), 1
        if not sharing.leaves_the_process:
            observed.start(to_stay=True)
        else:
            most = _SENT_FRAMES if total is None else max(1, min(_SENT_FRAMES, total // (2 * workers.size)))
        return cls(workers, frames, total, most, unfinished)

    def run(self, seen: Seen, progress: Stages, ends: Mapping[str, Ends] | None = None) -> None:
        """One pass, or what is left of it, added to what was seen.

        Args:
            ends: where histograms begin and end; None: of the first pass.
        Raises: OtherFramesError: those that were seen before are others.
        """
        limits = None if ends is None else np.array([_limits(ends.get(name)) for name in seen.names])
        marks: deque[Mark] = deque()
        done, total = seen.mark.frames, self.total if seen.whole is None else seen.whole.frames

        def shards() -> Iterator[Shard]:
            for frames, mark in _cut(self.frames, seen.mark, self.most):
                marks.append(mark)
                yield frames, limits

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if total is not None:
                step(progress, done, max(total, done))

        for found in self.workers.results(shards(), advance):
            seen.add(found, marks.popleft())
            if self.unfinished is not None:
                self.unfinished.keep(seen)


def expected(frames: Iterable[Frame]) -> int | None:
    """How many frames there are, where they know it."""
    if isinstance(frames, Sized):
        return len(frames)
    count = getattr(frames, "count", None)
    return count if isinstance(count, int) else None


def mark_of(frames: Iterable[Frame], total: int, progress: Stages) -> Mark:
    """Count and SHA-256 of frames, as a pass over all of them ends with."""
    digest, count = hashlib.sha256(), 0
    for frame in counted(frames, total, progress):
        _update(digest, frame)
        count += 1
    return Mark(count, digest.hexdigest())


def _limits(ends: Ends | None) -> tuple[float, float]:
    return (np.nan, np.nan) if ends is None else (ends.low, ends.high)


def _cut(frames: Iterable[Frame], start: Mark, most: int) -> Iterator[tuple[Sequence[Frame], Mark]]:
    """Shards of the frames after `start`, each with the mark at its end."""
    digest, count = hashlib.sha256(), 0
    shard: list[Frame] = []
    size = 0
    for frame in frames:
        _update(digest, frame)
        count += 1
        if count <= start.frames:
            if count == start.frames and digest.hexdigest() != start.sha256:
                raise OtherFramesError
            continue
        shard.append(frame)
        size += sum(value.nbytes for value in frame.values())
        if len(shard) == most or size >= _SENT_BYTES:
            yield shard, Mark(count, digest.hexdigest())
            shard, size = [], 0
    if count < start.frames:
        raise OtherFramesError
    if shard:
        yield shard, Mark(count, digest.hexdigest())


def _update(digest: hashlib._Hash, frame: Frame) -> None:
    for name, value in sorted(frame.items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
