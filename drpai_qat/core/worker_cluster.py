"""The workers of a Dask cluster, who have this package too. The one module that imports Dask (extra `distributed`)."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from typing import Any

from drpai_qat.core.errors import DrpaiQatError, MissingExtraError, OptionError, WorkerError
from drpai_qat.core.text import one_line
from drpai_qat.core.workers import R, T, Work, Workers, raised

_TIMEOUT = 15
"""Seconds in which a scheduler has to answer."""
_LOOK_EVERY = 1.0
"""Seconds between two questions whether anybody is left."""
_PATIENCE = 60
"""Seconds in which new workers have to come when none is left."""


class Cluster(Workers[T, R]):
    """See Workers. The task of a worker that dies goes to another one, and so does what does it: both are known to the
    scheduler."""

    def __init__(self, work: Work[T, R], scheduler: str) -> None:
        """Connect.

        Raises:
            OptionError: no scheduler answers, or it has no workers.
            MissingExtraError: Dask is not installed.
        """
        try:
            import dask
            from distributed import Client, KilledWorker
        except ImportError as error:
            raise MissingExtraError(f"--scheduler: {error}: pip install 'drpai-qat[distributed]'") from None
        self._where = f"--scheduler {one_line(scheduler)}"
        self._killed = KilledWorker
        self._open = ExitStack()
        try:
            client = self._open.enter_context(Client(scheduler, timeout=_TIMEOUT))
        except (OSError, TimeoutError, ValueError) as error:
            raise OptionError(f"{self._where}: no Dask scheduler answers: {one_line(error)}") from None
        super().__init__(sum(client.nthreads().values()))
        if not self.size:
            self.close()
            raise OptionError(f"{self._where} has no workers: start some (dask worker {one_line(scheduler)})")
        # Dask would rather have large data where the workers find it, and lose it with a worker that holds it.
        self._open.enter_context(dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}))
        self._client = client
        self._executor = client.get_executor(pure=False, retries=1)
        self._work = client.submit(_itself, work, pure=False)
        self._looked = self._seen = time.monotonic()

    def submit(self, task: T) -> Future[R]:
        """See Workers."""
        future: Future[R] = self._executor.submit(_do, self._work, task)
        return future

    def close(self) -> None:
        """See Workers; they drop what they are at."""
        self._open.close()

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if self._client.status in ("closing", "closed"):
            raise WorkerError(f"{self._where}: the scheduler is gone")
        try:
            workers = self._client.scheduler_info().get("workers")
        except OSError:  # gone, or for a moment; the client connects again, or closes
            return
        if workers:
            self._seen = now
        elif now - self._seen > _PATIENCE:
            raise WorkerError(f"{self._where}: no worker is left")

    def _result(self, future: Future[Any]) -> R:
        try:
            told, failure, result = future.result()
        except self._killed as error:
            raise WorkerError(
                f"{self._where}: a shard ended each worker that it was given to: {one_line(error)}"
            ) from None
        except CancelledError:
            raise WorkerError(f"{self._where}: the scheduler is gone") from None
        except ModuleNotFoundError as error:
            raise WorkerError(f"{self._where}: its workers need the same packages as this machine: {error}") from None
        self._told.put(told)
        if failure is not None:
            raise raised(*failure)
        found: R = result
        return found


def _itself(work: Work[T, R]) -> Work[T, R]:
    return work


def _do(work: Work[T, R], task: T) -> tuple[int, tuple[str, str] | None, R | None]:
    """What a worker does; returns what the work told, one of our errors, and the result."""
    told: list[int] = []
    try:
        result = work(task, told.append)
    except DrpaiQatError as error:
        return sum(told), (type(error).__name__, str(error)), None
    return sum(told), None, result
