"""Tools as processes: what they say, how they end, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drpai_qat.backends.drpai_sdk.processes import ToolError, last_words, run_tool

SLEEPS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("pids", "w").write(f"{child.pid}\\n")
print("wait" + "ing", flush=True)
time.sleep(600)
"""


def run(folder: Path, code: str, timeout: float = 60.0) -> int:
    return run_tool("The tool", [sys.executable, "-c", code], folder, os.environ, folder / "log", timeout)


def gone(number: int) -> bool:
    """The process ended; one that nobody waited for is a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_status_words_and_log(tmp_path: Path) -> None:
    assert run(tmp_path, "print('one'); print('two')") == 0
    assert (
        run(tmp_path, "import sys; print('three; $(echo four)', flush=True); sys.stderr.write('five'); sys.exit(3)")
        == 3
    )
    assert last_words(tmp_path / "log") == "; its last lines: three; $(echo four) | five"
    assert "one\ntwo\n" in (tmp_path / "log").read_text()
    assert run(tmp_path, "pass") == 0
    assert last_words(tmp_path / "log") == ""


def test_garbage_becomes_one_printable_line(tmp_path: Path) -> None:
    run(tmp_path, "import sys; sys.stdout.buffer.write(bytes(range(256)) * 40)")
    words = last_words(tmp_path / "log")
    assert words.isprintable()
    assert len(words) < 700


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="The tool can't be started: /none: No such file"):
        run_tool("The tool", ["/none"], tmp_path, os.environ, tmp_path / "log", 1)


def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(subprocess.Popen):
        """Its time is over as soon as it is at work, however slow the machine."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout == 77:
                wait_for(lambda: (tmp_path / "pids").exists() and "waiting" in (tmp_path / "log").read_text())
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    with pytest.raises(ToolError, match=r"not finished in 77 s .*last lines: waiting: give more time"):
        run(tmp_path, SLEEPS, timeout=77)
    child = int((tmp_path / "pids").read_text())
    wait_for(lambda: gone(child))


def test_an_interrupt_ends_the_tool(tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, SLEEPS)
    thread.join()
    child = int((tmp_path / "pids").read_text())
    wait_for(lambda: gone(child))
