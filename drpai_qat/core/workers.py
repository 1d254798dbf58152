"""Work on many tasks at a time: in threads of this process; in processes (`worker_processes.py`); on a Dask cluster
(`worker_cluster.py`).

Whoever does a task, its result comes at its place in their order. Few tasks are under way at a time, so that neither
tasks nor results pile up.
"""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from drpai_qat.core.errors import OptionError

T = TypeVar("T")
R = TypeVar("R")

Tell: TypeAlias = Callable[[int], None]
"""Told how much more is done, in whatever the work counts."""
Work: TypeAlias = Callable[[T, Tell], R]
"""Does one task. To leave this process it is pickled, and so are tasks and results."""

_LOOK_EVERY = 0.2
"""Seconds between two looks at how far the tasks are."""
_IN_HAND = 2
"""Tasks under way for each that is worked on: the next one is ready when that ends."""


@dataclass(frozen=True)
class Sharing:
    """Who shares the work, as --workers and --scheduler say.

    Attributes:
        workers: number of processes.
        scheduler: address of a Dask scheduler, whose workers do it all.
    """

    workers: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.workers > 1:
            raise OptionError("--scheduler and --workers: give one of them, the cluster has its own workers")

    @property
    def leaves_the_process(self) -> bool:
        """Tasks are sent elsewhere."""
        return self.workers > 1 or self.scheduler is not None


ALONE = Sharing()
"""Nobody but this process."""


class Workers(Generic[T, R]):
    """Those who do the tasks, as long as this is entered; afterwards none of them is left.

    Attributes:
        size: tasks that are worked on at a time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._told: SimpleQueue[int] = SimpleQueue()

    def submit(self, task: T) -> Future[R]:
        """Have a task done."""
        raise NotImplementedError

    def close(self) -> None:
        """End all work."""
        raise NotImplementedError

    def results(self, tasks: Iterable[T], advance: Tell) -> Iterator[R]:
        """The results in the order of the tasks.

        Args:
            advance: told, in this thread, what the work tells.
        Raises: what the work raised; WorkerError: a worker ended at the same task again.
        """
        under_way: deque[Future[R]] = deque()
        for task in tasks:
            under_way.append(self.submit(task))
            while under_way and (under_way[0].done() or len(under_way) >= _IN_HAND * self.size):
                yield self._finished(under_way.popleft(), advance)
        while under_way:
            yield self._finished(under_way.popleft(), advance)

    def _finished(self, future: Future[R], advance: Tell) -> R:
        while not future.done():
            concurrent.futures.wait([future], _LOOK_EVERY)
            self._pass_on(advance)
            self._look()
        result = self._result(future)
        self._pass_on(advance)
        return result

    def _look(self) -> None:
        """Raise WorkerError if nobody is left who would end what is waited for."""

    def _result(self, future: Future[R]) -> R:
        return future.result()

    def _pass_on(self, advance: Tell) -> None:
        while not self._told.empty():
            advance(self._told.get())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Threads(Workers[T, R]):
    """Threads of this process, for work that is done outside of Python."""

    def __init__(self, work: Work[T, R], size: int) -> None:
        super().__init__(size)
        self._work = work
        self._pool = ThreadPoolExecutor(size, "drpai-qat-work")

    def submit(self, task: T) -> Future[R]:
        """See Workers."""
        return self._pool.submit(self._work, task, self._told.put)

    def close(self) -> None:
        """See Workers; what is worked on is waited for."""
        self._pool.shutdown(cancel_futures=True)


def shared(work: Work[T, R], sharing: Sharing, threads: int = 1) -> Workers[T, R]:
    """The workers that the user asked for.

    Args:
        threads: of this process, where no others are asked for.
    Raises:
        OptionError: no scheduler answers, or it has no workers.
        MissingExtraError: Dask is not installed.
    """
    if sharing.scheduler is not None:
        from drpai_qat.core.worker_cluster import Cluster

        return Cluster(work, sharing.scheduler)
    if sharing.workers > 1:
        from drpai_qat.core.worker_processes import Processes

        return Processes(work, sharing.workers)
    return Threads(work, threads)


def raised(name: str, message: str) -> Exception:
    """An exception that a worker raised, as it is here: one of ours, else one whose message names it."""
    from drpai_qat.core import errors

    if name == MemoryError.__name__:
        return MemoryError()
    known: Any = getattr(errors, name, None)
    if isinstance(known, type) and issubclass(known, errors.DrpaiQatError):
        return known(message)
    return RuntimeError(f"{name}: {message}")
