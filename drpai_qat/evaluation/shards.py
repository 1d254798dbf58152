"""Shares an evaluation among processes, or the workers of a Dask cluster, which see the networks and the data under the
same paths: each shard is every n-th example, and whoever answers them opens networks of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from drpai_qat.core.errors import OptionError
from drpai_qat.core.workers import Tell, shared
from drpai_qat.data.image_files import Skipped
from drpai_qat.evaluation.answers import Answer, answers, open_contest
from drpai_qat.evaluation.evaluate_options import EvaluateOptions

Found = list[Answer | Skipped]

_REPORTED = 32
"""Examples after which a worker tells how far it is."""
_SHARDS_EACH = 4
"""Shards for each thread of a cluster: what is lost with a worker is that much less."""
_FEWEST = 32
"""Examples of such a shard at least, since each opens the networks anew."""


@dataclass(frozen=True)
class _Answering:
    """What a worker does: all answers of a shard, given as its number and how many there are."""

    options: EvaluateOptions
    threads: int

    def __call__(self, shard: tuple[int, int], tell: Tell) -> Found:
        if self.options.scheduler is None:
            os.environ.setdefault("TVM_NUM_THREADS", str(self.threads))
        found: Found = []
        for one in answers(self.options, open_contest(self.options, self.threads), *shard):
            found.append(one)
            if len(found) % _REPORTED == 0:
                tell(_REPORTED)
        tell(len(found) % _REPORTED)
        return found


def run_shards(options: EvaluateOptions, count: int | None, advance: Tell) -> Found:
    """The answers of all workers, in the order of the data: those that one process gives.

    Args:
        count: number of examples, if it is known.
        advance: told how many more examples are done.
    Raises: DrpaiQatError: a shard raised it, or ended its worker again and again; see `shared`.
    """
    sharing = options.sharing
    if callable(options.data) or callable(options.metric):
        what = "--workers" if sharing.scheduler is None else "--scheduler"
        raise OptionError(f"{what}: processes find functions by name: give MODULE:FUNCTION")
    plain = EvaluateOptions(**{one.name: getattr(options, one.name) for one in fields(EvaluateOptions)})
    threads = 1 if sharing.scheduler is not None else max(1, len(os.sched_getaffinity(0)) // sharing.workers)
    found: Found = []
    with shared(_Answering(plain, threads), sharing) as workers:
        shards = workers.size
        if sharing.scheduler is not None:
            most = workers.size * _SHARDS_EACH
            shards = most if count is None else max(1, min(most, count // _FEWEST))
        for answered in workers.results([(shard, shards) for shard in range(shards)], advance):
            found += answered
    return [
        *sorted((one for one in found if isinstance(one, Answer)), key=lambda one: one.index),
        *sorted((one for one in found if isinstance(one, Skipped)), key=lambda one: one.name),
    ]
