"""Work for tests/core/test_workers.py, which other processes import."""

import os
import time
from pathlib import Path

from drpai_qat.core.errors import OptionError


def squared(task, tell):
    """Later tasks are done earlier; what is printed is no answer."""
    number, seconds = task
    print("printed", flush=True)
    time.sleep(seconds)
    tell(1)
    return number**2, os.getpid()


def failing(task, tell):
    """One of our errors, or another one."""
    raise OptionError(task) if task else KeyError("which")


def dying(path, tell):
    """Ends its process the first time."""
    tell(5)
    if not Path(path).exists():
        Path(path).touch()
        os._exit(9)
    return "lived"


def doomed(task, tell):
    """Always ends its process."""
    os._exit(9)


def endless(path, tell):
    """Says where it runs, and never ends."""
    Path(path).write_text(f"{os.getpid()} {os.getpgid(0)}")
    time.sleep(1000)
