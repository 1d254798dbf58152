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


@pytest.fixture
def interruptible():
    """Ctrl-C raises here even where the tests run in the background, with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_child(tmp_path):
    def work():
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    def interrupt():
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_isolated(work, tmp_path)
    assert time.monotonic() - start < 30
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_much_output_does_not_block(tmp_path):
    run_isolated(lambda: print("x" * 1_000_000, file=os.fdopen(2, "w", closefd=False)), tmp_path)
