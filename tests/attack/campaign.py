"""Runs the public commands on mutants, each in a process of its own with limits, and judges how that ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.attack import child
from tests.attack.tasks import Task, laid_out

WALL_SECONDS = 600
"""For what hangs without computing; a busy machine may take long."""

FINE = ("compiled", "refused", "fell short")
"""Outcomes that are documented: status 0 with the right numbers, 1 and 3 with words."""


@dataclass(frozen=True)
class Verdict:
    """How a file ended.

    Attributes:
        outcome: one of FINE, or "internal", "traceback", "signal", "time", "memory", "wrong", "status", "inspect".
        told: the last line on stderr, or what was wrong.
    """

    outcome: str
    told: str

    @property
    def is_fault(self) -> bool:
        """Ours, whatever the file is."""
        return self.outcome not in FINE


def judge(tasks: Iterator[Task], scratch: Path, jobs: int, real_every: int = 0) -> Iterator[tuple[Task, Verdict]]:
    """Work on files, several at a time.

    Args:
        scratch: folder for them.
        real_every: every so many files, the commands run in processes that nobody has prepared; 0: never.
    """
    running: dict[int, tuple[Task, Path, float]] = {}
    count, waiting = 0, True
    while waiting or running:
        while waiting and len(running) < jobs:
            task = next(tasks, None)
            if task is None:
                waiting = False
                break
            folder = scratch / task.name
            laid_out(task, folder)
            count += 1
            number = child.start(task, folder, real_every > 0 and count % real_every == 0)
            running[number] = task, folder, time.monotonic()
        for number, (task, folder, began) in list(running.items()):
            done, status, usage = os.wait4(number, os.WNOHANG)
            if not done:
                if time.monotonic() - began > WALL_SECONDS:
                    os.killpg(number, signal.SIGKILL)
                continue
            with contextlib.suppress(ProcessLookupError):  # a helper that has not noticed yet
                os.killpg(number, signal.SIGKILL)
            del running[number]
            yield task, _verdict(folder, status, usage.ru_maxrss * 1024)
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _verdict(folder: Path, status: int, memory: int) -> Verdict:
    looked = _text(folder / "inspected")
    text = _text(folder / "stderr")
    lines = text.splitlines() or looked.splitlines() or [""]
    last = lines[-1][:300]
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Verdict("time", f"over {child.CPU_SECONDS} s of CPU time, or {WALL_SECONDS} s in all: {last}")
    if code < 0:
        return Verdict("signal", f"{signal.Signals(-code).name}: {last}")
    if memory > child.MEMORY:
        return Verdict("memory", f"{memory / 2**30:.1f} GB: {last}")
    if "Traceback (most" in text + looked:
        return Verdict("traceback", last)
    if "internal:" in text + looked or "please report" in text + looked:
        return Verdict("internal", last)
    inspected, seconds = json.loads((folder / "inspection").read_text())
    if (inspected, len(looked.splitlines())) not in ((0, 0), (1, 1)) or seconds > child.INSPECT_SECONDS:
        return Verdict("inspect", f"{inspected}, {len(looked.splitlines())} lines, {seconds:.1f} s: {looked[:300]}")
    made = (folder / "out").exists()
    if code == 1 and last.startswith("error: ") and len(lines) == 1 and not made:
        return Verdict("refused", last)
    if code == 3 and made and text:
        return Verdict("fell short", last)
    if code == 0 and made and not text:
        wrong = _text(folder / "wrong")
        return Verdict("wrong", wrong) if wrong else Verdict("compiled", "")
    return Verdict("status", f"{code}, {'a' if made else 'no'} folder, {len(lines)} lines: {last}")


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def counted(found: Sequence[tuple[str, str, str]]) -> str:
    """Tables of outcomes, by kind of mutation and by command, as Markdown.

    Args:
        found: kind, command and outcome of each file.
    """
    outcomes = sorted({one[2] for one in found} | set(FINE), key=lambda one: (one not in FINE, one))
    tables = []
    for at, what in enumerate(("mutation", "command")):
        counts = Counter((one[at], one[2]) for one in found)
        lines = [f"| {what} | files | {' | '.join(outcomes)} |", "|---|" + "---|" * (len(outcomes) + 1)]
        for kind in (*sorted({one[at] for one in found}), "all"):
            row = [sum(n for (k, o), n in counts.items() if o == one and kind in (k, "all")) for one in outcomes]
            lines.append(f"| {kind} | {sum(row)} | {' | '.join(map(str, row))} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
