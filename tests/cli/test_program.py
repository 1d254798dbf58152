"""What a process does around its command: streams, signals outside of the work, packages that are not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drpai_qat.cli.exit_status import CHECK_FELL_SHORT, guarded
from drpai_qat.core.interrupts import Interrupts
from drpai_qat.deployment.folder import staged

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ended(code: str, *arguments: str, **options: object) -> tuple[int, str]:
    """Exit status and stderr of a process that runs `code` and then the command."""
    words = [sys.executable, "-c", f"from drpai_qat.cli import program\n{code}\nprogram.drpai_qat()", *arguments]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False, **options)  # type: ignore[call-overload]
    return done.returncode, done.stderr


def test_a_full_disk_under_stdout() -> None:
    with open("/dev/full", "w") as full:
        status, text = ended("", "--help", stdout=full)
    assert (status, text) == (1, "error: not all could be printed: No space left on device\n")


def test_nobody_reads_stdout() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert ended("", "--help", stdout=writing) == (0, "")
    os.close(writing)


def test_closed_streams() -> None:
    """Their numbers go to no file that the command opens."""
    code = (
        "import os\n"
        "from drpai_qat.cli import main\n"
        "os.closerange(0, 3)\n"
        "main.main = lambda: print('text') or int(os.open('/dev/null', os.O_RDONLY) < 3)\n"
    )
    assert ended(code) == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports(number: signal.Signals) -> None:
    code = (
        "import os, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'drpai_qat.cli.compile': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    assert ended(code, "--help", stdout=subprocess.DEVNULL) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("module", ["drpai_qat.pipeline", "tvm"])
def test_a_signal_during_the_imports_of_the_work(models: Path, tmp_path: Path, module: str) -> None:
    """An exception in there would be std::terminate's where a library in C++ imports."""
    code = (
        "import os, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == '{module}':\n"
        "            try: os.kill(os.getpid(), 15)\n"
        "            except BaseException: os._exit(66)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    out = tmp_path / "out"
    assert ended(code, "compile", str(models / "tf_cnn_op13.onnx"), "-o", str(out), "--quiet") == (143, "interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_between_work_and_end(number: signal.Signals) -> None:
    code = (
        "import atexit, os\n"
        "from drpai_qat.cli import main\n"
        f"main.main = lambda: atexit.register(os.kill, os.getpid(), {int(number)}) and 3\n"
    )
    assert ended(code, stdout=subprocess.DEVNULL) == (3, "")


def test_a_signal_behind_the_work_of_a_command() -> None:
    """Between the moment in which the outcome is known and that in which the process looks no more."""
    code = (
        "import os, signal\n"
        "from drpai_qat.cli import exit_status, main\n"
        "def work():\n"
        "    status = exit_status.guarded(lambda _: 3, False)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return status\n"
        "main.main = work\n"
    )
    assert ended(code, stdout=subprocess.DEVNULL) == (3, "")


def test_a_clone_that_nobody_installed() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from drpai_qat.cli.program import drpai_qat; drpai_qat()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: the package click is not installed: {sys.executable} -m pip install {ROOT}\n"


def test_a_signal_when_the_folder_is_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: Interrupts) -> int:
        with staged(tmp_path / "out") as folder:
            (folder / "file").touch()
        for number in SIGNALS:
            signal.raise_signal(number)
        return CHECK_FELL_SHORT

    assert guarded(work, verbose=False) == CHECK_FELL_SHORT
    assert capsys.readouterr().err == ""
    assert (tmp_path / "out" / "file").exists()


def test_a_second_signal_while_the_first_cleans_up(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def work(_: Interrupts) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
        return 0

    assert guarded(work, verbose=False) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "interrupted\n"
    assert cleaned


def test_a_second_signal_after_a_lost_one() -> None:
    with Interrupts() as interrupts:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert interrupts.received == [signal.SIGINT] * 2


def test_paths_and_limits_of_the_system_are_no_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: Interrupts) -> int:
        (Path("x" * 300) / "y").stat()
        return 0

    assert guarded(work, verbose=False) == 1
    assert "File name too long: look at the path" in capsys.readouterr().err
