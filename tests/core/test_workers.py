"""Tasks that threads and processes share."""

import os
import signal
import threading
import time

import pytest

from drpai_qat.core.errors import OptionError, WorkerError
from drpai_qat.core.worker_processes import Processes
from drpai_qat.core.workers import Sharing, Threads, shared
from tests.core import jobs


def done(work, tasks, sharing, told=None):
    with shared(work, sharing, threads=2) as workers:
        return list(workers.results(tasks, (told if told is not None else []).append))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers):
    taken: list[int] = []
    told: list[int] = []

    def tasks():
        for number in range(6):
            taken.append(number)
            yield number, 0.2 if number == 0 else 0

    with shared(jobs.squared, Sharing(workers), threads=2) as crew:
        assert isinstance(crew, Threads if workers == 1 else Processes)
        results = crew.results(tasks(), told.append)
        first = next(results)
        assert len(taken) <= 4  # neither tasks nor results pile up
        found = [first, *results]
    assert [number for number, _ in found] == [0, 1, 4, 9, 16, 25]
    assert {process == os.getpid() for _, process in found} == {workers == 1}
    assert sum(told) == 6


def test_errors_of_processes_come_back():
    with pytest.raises(OptionError, match=r"^what, where$"):
        done(jobs.failing, ["what, where"], Sharing(2))
    with pytest.raises(RuntimeError, match=r"^KeyError: 'which'$"):
        done(jobs.failing, [""], Sharing(2))
    with pytest.raises(OptionError, match="give one of them"):
        Sharing(2, "tcp://127.0.0.1:8786")


def test_a_process_that_dies_is_replaced(tmp_path):
    told: list[int] = []
    assert done(jobs.dying, [tmp_path / "one", tmp_path / "two"], Sharing(2), told) == ["lived", "lived"]
    assert sum(told) == 10
    with pytest.raises(WorkerError, match="a worker ended with status 9, twice: give fewer --workers"):
        done(jobs.doomed, [1, 2, 3], Sharing(2))


def test_nobody_is_left_after_ctrl_c(tmp_path):
    """Nor does the terminal's Ctrl-C, which all processes of its group get, reach the workers."""
    paths = [tmp_path / "one", tmp_path / "two"]

    def interrupt():
        while not all(path.exists() and path.read_text() for path in paths):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        done(jobs.endless, paths, Sharing(2))
    thread.join()
    for path in paths:
        process, group = map(int, path.read_text().split())
        assert group != os.getpgid(0)
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
