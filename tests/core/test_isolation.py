import ctypes
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from drpai_qat.core.errors import LoweringError
from drpai_qat.core.isolation import run_isolated


def test_files_come_back_and_nothing_else(tmp_path):
    state = []

    def work():
        state.append(1)
        (tmp_path / "result").write_text(os.environ["TMPDIR"])

    run_isolated(work, tmp_path)
    assert (tmp_path / "result").read_text() == str(tmp_path)
    assert state == []
    assert os.environ.get("TMPDIR") != str(tmp_path)


def test_named_errors_keep_their_name(tmp_path):
    def work():
        raise LoweringError("node 'x': why")

    with pytest.raises(LoweringError, match=r"^node 'x': why$"):
        run_isolated(work, tmp_path)


def test_other_errors_are_quoted(tmp_path):
    def work():
        raise KeyError("which")

    with pytest.raises(RuntimeError, match="KeyError: 'which'") as caught:
        run_isolated(work, tmp_path)
    assert "in work" in str(caught.value.__cause__)


def test_what_a_dying_library_printed_is_the_message(tmp_path, capfd):
    def work():
        os.write(2, b"LLVM ERROR: IO failure\n")
        os._exit(1)

    with pytest.raises(RuntimeError, match="status 1: LLVM ERROR: IO failure"):
        run_isolated(work, tmp_path)
    assert capfd.readouterr().err == ""


def test_exit_handlers_of_libraries_do_not_run(tmp_path):
    """They would wait for threads that the child doesn't have."""
    libc = ctypes.CDLL(None)
    with pytest.raises(RuntimeError, match="status 1"):
        run_isolated(lambda: libc.exit(0), tmp_path)


def test_a_crash_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="status -9"):
        run_isolated(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def interrupting(request):
    """A signal that raises KeyboardInterrupt, as Ctrl-C does; where tests run in the background it is ignored."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    assert signal.getsignal(request.param) is signal.default_int_handler
    signal.signal(request.param, before)


def sleep_in(folder):
    """Work that says which process it is, and then waits to be killed; it ends where the signal is lost, too."""

    def work():
        (folder / "starting").write_text(str(os.getpid()))
        (folder / "starting").rename(folder / "pid")
        time.sleep(60)

    return work


def is_gone(folder):
    """The process of `sleep_in` has ended, if it came so far, and was waited for."""
    started = folder / "pid"
    return not (started.exists() and Path("/proc", started.read_text()).exists())


def test_an_interrupt_ends_the_child(tmp_path, interrupting):
    tested = threading.get_ident()

    def interrupt():
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        signal.pthread_kill(tested, interrupting)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_isolated(sleep_in(tmp_path), tmp_path)
    thread.join()
    assert is_gone(tmp_path)


# Hooks stay registered for good, so one of each kind does what a test puts here.
in_hooks = dict.fromkeys(("before", "after_in_parent"), lambda: None)
os.register_at_fork(**{moment: (lambda moment=moment: in_hooks[moment]()) for moment in in_hooks})


@pytest.mark.parametrize("moment", in_hooks)
def test_an_interrupt_while_forking_is_not_lost(moment, tmp_path, interrupting, monkeypatch):
    """Python discards what is raised inside the hooks."""
    monkeypatch.setitem(in_hooks, moment, lambda: signal.raise_signal(interrupting))
    open_before = os.listdir("/proc/self/fd")
    with pytest.raises(KeyboardInterrupt):
        run_isolated(sleep_in(tmp_path), tmp_path)
    assert is_gone(tmp_path)
    assert os.listdir("/proc/self/fd") == open_before


@pytest.mark.parametrize("moment", in_hooks)
def test_signals_while_forking_reach_their_handlers_in_order(moment, tmp_path, monkeypatch):
    """All of them, even behind one that raises."""
    arrived = []

    def stop(number, _frame):
        arrived.append(number)
        raise KeyboardInterrupt

    signals = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    monkeypatch.setitem(in_hooks, moment, lambda: list(map(signal.raise_signal, signals)))
    before = {number: signal.signal(number, stop) for number in set(signals)}
    try:
        with pytest.raises(KeyboardInterrupt):
            run_isolated(sleep_in(tmp_path), tmp_path)
    finally:
        for number, handler in before.items():
            assert signal.signal(number, handler) is stop
    assert arrived == signals


@pytest.mark.parametrize("moment", in_hooks)
def test_a_handler_that_goes_on_lets_the_work_go_on(moment, tmp_path, interrupting, monkeypatch):
    arrived = []
    signal.signal(interrupting, lambda number, frame: arrived.append(number))
    monkeypatch.setitem(in_hooks, moment, lambda: signal.raise_signal(interrupting))
    run_isolated(lambda: (tmp_path / "result").touch(), tmp_path)
    signal.signal(interrupting, signal.default_int_handler)
    assert arrived == [interrupting]
    assert (tmp_path / "result").exists()


def test_other_threads_start_children_too(tmp_path):
    thread = threading.Thread(target=run_isolated, args=((tmp_path / "result").touch, tmp_path))
    thread.start()
    thread.join()
    assert (tmp_path / "result").exists()


def test_much_output_does_not_block(tmp_path):
    run_isolated(lambda: print("x" * 1_000_000, file=os.fdopen(2, "w", closefd=False)), tmp_path)
