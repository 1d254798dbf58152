"""Shares an evaluation among processes: each has its own network, and answers every n-th example."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from drpai_qat.core import errors
from drpai_qat.core.errors import DeploymentError, DrpaiQatError, OptionError
from drpai_qat.core.text import one_line
from drpai_qat.data.image_files import Skipped
from drpai_qat.evaluation.answers import Answer, answers, open_contest
from drpai_qat.evaluation.evaluate_options import EvaluateOptions

Found = list[Answer | Skipped]
Advance = Callable[[int], None]

_TRIES = 2
_REPORTED = 32
"""Examples after which a process tells how far it is."""


def answers_of_shard(options: EvaluateOptions, shard: int, shards: int, advance: Advance, threads: int) -> Found:
    """All answers of one shard; `advance` is told how many more there are."""
    found: Found = []
    for one in answers(options, open_contest(options, threads), shard, shards):
        found.append(one)
        if len(found) % _REPORTED == 0:
            advance(_REPORTED)
    advance(len(found) % _REPORTED)
    return found


def run_shards(options: EvaluateOptions, advance: Advance) -> Found:
    """The answers of `options.workers` processes, in the order of the data.

    A process that dies without a word (for want of memory, say) is started once more.

    Raises: DrpaiQatError: one raised it, or died twice.
    """
    check_named(options, "--workers")
    running = {one.pipe: one for one in (_start(options, shard, 1) for shard in range(options.workers))}
    found: Found = []
    try:
        while running:
            for pipe in wait(list(running)):
                worker = running[pipe]  # type: ignore[index]  # we gave it connections
                try:
                    kind, *values = worker.pipe.recv()
                except EOFError:
                    kind, values = "died", []
                if kind == "advance":
                    advance(values[0])
                    continue
                del running[worker.pipe]
                worker.process.join()
                if kind == "failed":
                    raise _as_raised(*values)
                if kind == "done":
                    found += values[0]
                    continue
                if worker.tries == _TRIES:
                    raise DeploymentError(
                        f"a worker ended with status {worker.process.exitcode}, twice: give fewer --workers if memory "
                        "is short"
                    )
                again = _start(options, worker.shard, worker.tries + 1)
                running[again.pipe] = again
    finally:
        for worker in running.values():
            worker.process.kill()
    return in_order(found)


def check_named(options: EvaluateOptions, what: str) -> None:
    """Refuse functions themselves, which other processes could not find.

    Raises: OptionError: data or metric is one.
    """
    if callable(options.data) or callable(options.metric):
        raise OptionError(f"{what}: processes find functions by name: give MODULE:FUNCTION")


def in_order(found: Found) -> Found:
    """Answers in the order of the data, then what was skipped."""
    return [
        *sorted((one for one in found if isinstance(one, Answer)), key=lambda one: one.index),
        *sorted((one for one in found if isinstance(one, Skipped)), key=lambda one: one.name),
    ]


@dataclass(frozen=True, eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    shard: int
    tries: int


def _start(options: EvaluateOptions, shard: int, tries: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would share TVM's threads
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(options, shard, writing), daemon=True)
    process.start()
    writing.close()
    return _Worker(process, reading, shard, tries)


def _work(options: EvaluateOptions, shard: int, pipe: Connection) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    try:
        found = answers_of_shard(options, shard, options.workers, lambda count: pipe.send(("advance", count)), threads)
        pipe.send(("done", found))
    except DrpaiQatError as error:
        pipe.send(("failed", type(error).__name__, str(error)))
    except Exception as error:
        pipe.send(("failed", "", f"{type(error).__name__}: {one_line(error)}"))


def _as_raised(name: str, message: str) -> Exception:
    known = getattr(errors, name, None) if name else None
    return known(message) if isinstance(known, type) else RuntimeError(message)
