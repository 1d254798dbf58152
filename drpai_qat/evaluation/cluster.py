"""Shares an evaluation among the workers of a Dask cluster. The one module that imports Dask (extra `distributed`)."""

from __future__ import annotations

from collections.abc import Callable

from drpai_qat.core.errors import DeploymentError, MissingExtraError, OptionError
from drpai_qat.core.text import one_line
from drpai_qat.evaluation.evaluate_options import EvaluateOptions
from drpai_qat.evaluation.shards import Found, answers_of_shard, check_named, in_order

_TIMEOUT = 15
"""Seconds in which a scheduler has to answer."""
_SHARDS_EACH = 4
"""Shards for each thread of the cluster: what is lost with a worker is that much less."""
_FEWEST = 32
"""Examples of a shard at least, since each opens the networks anew."""


def run_on_cluster(options: EvaluateOptions, count: int | None, advance: Callable[[int], None]) -> Found:
    """The answers of all workers, in the order of the data: those that one process gives.

    The workers have this package, and see the networks and the data under the same paths. The shard of a worker that
    dies goes to another one.

    Args:
        count: number of examples, if it is known.
        advance: told how many more examples are done.
    Raises:
        OptionError: no scheduler answers, or it has no workers.
        DeploymentError: a shard ends whichever worker it is given to.
        DrpaiQatError: a shard raised it.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise MissingExtraError(f"--scheduler: {error}: pip install 'drpai-qat[distributed]'") from None
    check_named(options, "--scheduler")
    where = f"--scheduler {options.scheduler}"
    try:
        client = Client(options.scheduler, timeout=_TIMEOUT)
    except (OSError, TimeoutError, ValueError) as error:
        raise OptionError(f"{where}: no Dask scheduler answers: {one_line(error)}") from None
    found: Found = []
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise OptionError(f"{where} has no workers: start some (dask worker {options.scheduler})")
        most = threads * _SHARDS_EACH
        shards = most if count is None else max(1, min(most, count // _FEWEST))
        futures = [client.submit(_shard, options, shard, shards, pure=False) for shard in range(shards)]
        try:
            for _, answers in as_completed(futures, with_results=True):
                found += answers
                advance(len(answers))
        except KilledWorker as error:
            raise DeploymentError(
                f"{where}: a shard ended each worker that it was given to: {one_line(error)}"
            ) from None
    return in_order(found)


def _shard(options: EvaluateOptions, shard: int, shards: int) -> Found:
    """What a worker does."""
    return answers_of_shard(options, shard, shards, lambda _: None, threads=1)
