"""What a process of the campaign does: `inspect` and `compile` on one file within limits, and a look at the numbers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from tests.attack.numbers import ELSEWHERE, MOVED, what_is_wrong
from tests.attack.tasks import Task

ADDRESS_SPACE = 12 * 2**30
"""Bytes that a process may map: the libraries map several GB that they never touch."""
MEMORY = 4 * 2**30
"""Bytes that it may have in use."""
CPU_SECONDS = 60
INSPECT_SECONDS = 10


def load_compiler() -> None:
    """Import what a compilation imports, so that the processes that are forked need not.

    Neither TVM nor onnxruntime has started a thread then, so nothing is lost in a fork.
    """
    import onnxruntime  # noqa: F401

    import drpai_qat.backends.cpu.compilation
    import drpai_qat.backends.tflite.backend
    import drpai_qat.cli.main
    import drpai_qat.inspection.terminal
    import drpai_qat.pipeline  # noqa: F401


def start(task: Task, folder: Path, real_process: bool) -> int:
    """Fork a process that works on the file in a folder; returns its number.

    Args:
        real_process: run the commands as a user does, instead of by the function that they call.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(folder)
        _work(task, folder, real_process)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def _work(task: Task, folder: Path, real_process: bool) -> NoReturn:
    _errors_to(folder / "inspected")
    began = time.process_time()
    bound = ["--max-memory", str(MEMORY // 2)]
    status = _command(["inspect", "m.onnx", *bound], real_process)
    (folder / "inspection").write_text(json.dumps([status, time.process_time() - began]))
    if task.way == "SDK":
        os.environ |= {"PATH": f"{folder}/sdk/bin:/usr/local/bin:/usr/bin:/bin", "PRODUCT": "V2H"}
    _errors_to(folder / "stderr")
    status = _command(["compile", "m.onnx", "-o", "out", "--quiet", *bound, *task.arguments], real_process)
    if status == 0 and task.way != "SDK":  # where nothing here runs what was made
        (folder / "wrong").write_text(_wrong(task, folder, bound))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _wrong(task: Task, folder: Path, bound: list[str]) -> str:
    """What is wrong with the numbers, if anything.

    One step of a coarse output grid is far in dB: on inputs that the command has not seen, its check of the layers says
    whether it is a tie of onnxruntime's, or a fault.
    """
    told = what_is_wrong(folder)
    if not told.startswith(ELSEWHERE) or task.way == "data":
        return told
    _errors_to(folder / "again")
    command = ["compile", "m.onnx", "-o", "other", "--quiet", *bound, *task.arguments]
    return told if _command([*command, "--check", "layers", "--samples", MOVED], real_process=False) else ""


def _errors_to(path: Path) -> None:
    sys.stderr.flush()
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)


def _command(arguments: list[str], real_process: bool) -> int:
    if real_process:
        return subprocess.run([sys.executable, "-m", "drpai_qat", *arguments], check=False).returncode
    from drpai_qat.cli.main import main

    return main(arguments)
