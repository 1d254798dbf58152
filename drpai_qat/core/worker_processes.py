"""Processes that do tasks, each started when it is needed. One that dies is replaced, and its task done once more."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from drpai_qat.core.errors import DrpaiQatError, WorkerError
from drpai_qat.core.isolation import signals_held
from drpai_qat.core.text import one_line
from drpai_qat.core.workers import R, T, Tell, Work, Workers, raised

_TRIES = 2
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from drpai_qat.core.worker_processes import serve; serve(sys.argv[1])"
_ENDED = (EOFError, BrokenPipeError, ConnectionResetError, pickle.UnpicklingError)
"""What reading from, or writing to, a process raises that has ended or been ended."""
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>: a signal for the child when its parent is gone
_TOLD, _DONE, _FAILED, _BROKE = range(4)


class Processes(Workers[T, R]):
    """See Workers. Each process has a thread here that hands it tasks and waits, so signals find the main one free."""

    def __init__(self, work: Work[T, R], size: int) -> None:
        super().__init__(size)
        self._work = work
        self._pool = ThreadPoolExecutor(size, "drpai-qat-work")
        self._own = threading.local()
        self._started: list[_Process] = []
        self._turn = threading.Lock()
        self._closed = False

    def submit(self, task: T) -> Future[R]:
        """See Workers."""
        return self._pool.submit(self._do, task)

    def close(self) -> None:
        """See Workers; whatever they are at, the processes end now."""
        with signals_held():
            with self._turn:
                self._closed = True
                for one in self._started:
                    one.kill()
            self._pool.shutdown(cancel_futures=True)
            for one in self._started:
                one.wait()

    def _do(self, task: T) -> R:
        told: list[int] = []

        def tell(count: int) -> None:
            told.append(count)
            self._told.put(count)

        for again in range(1, _TRIES + 1):
            process = self._process()
            try:
                kind, *values = process.ask(task, tell)
            except _ENDED:
                status = process.wait()
                self._own.process = None
                if self._closed:
                    raise CancelledError from None
                if again == _TRIES:
                    raise WorkerError(
                        f"a worker ended with status {status}, twice: give fewer --workers if memory is short"
                    ) from None
            else:
                if kind == _DONE:
                    result: R = values[0]
                    return result
                if kind == _FAILED or again == _TRIES:
                    raise raised(*values)
            tell(-sum(told))  # it begins anew
        raise AssertionError

    def _process(self) -> _Process:
        """This thread's."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            with self._turn:
                if self._closed:
                    raise CancelledError
                process = self._own.process = _Process(self._work)
                self._started.append(process)
        return process


class _Process:
    """A process at work; they talk over pipes, in pickles."""

    def __init__(self, work: Work[Any, Any]) -> None:
        # An editable install is found by a hook of the environment, not by a folder in the path.
        path = [*sys.path, str(Path(__file__).parents[2])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(os.getpid()), *path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            process_group=0,  # the terminal's Ctrl-C is this process's alone, which ends the others
        )  # fmt: skip
        self._work: Work[Any, Any] | None = work

    def ask(self, task: object, tell: Tell) -> tuple[Any, ...]:
        """Have it do a task; returns how that ended, and with what.

        Raises: one of _ENDED: the process did.
        """
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        if self._work is not None:
            pickle.dump(self._work, asked, protocol=5)
            self._work = None
        pickle.dump(task, asked, protocol=5)
        asked.flush()
        while True:
            kind, *values = pickle.load(answers)
            if kind != _TOLD:
                return (kind, *values)
            tell(*values)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> int:
        """Its status, once it has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # bytes that it never read
                    pipe.close()
        return self._process.wait()


def serve(parent: str) -> NoReturn:
    """The process: do what is asked until nobody asks any more.

    Args:
        parent: number of the process that asks.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what libraries and the user's functions print is no answer

    def answer(*values: object) -> None:
        pickle.dump(values, answers, protocol=5)
        answers.flush()

    try:
        work = pickle.load(asked)
        while True:
            task = pickle.load(asked)
            try:
                result = work(task, lambda count: answer(_TOLD, count))
            except DrpaiQatError as error:
                answer(_FAILED, type(error).__name__, str(error))
            except Exception as error:
                answer(_BROKE, type(error).__name__, one_line(error))
            else:
                answer(_DONE, result)
    except (EOFError, BrokenPipeError):
        os._exit(0)
