"""Runs the SDK's tools: no shell, all output into a log, an end that takes the tool's own children along.

A tool that fails, hangs or is missing becomes a ToolError of one line: the tool, how it ended, the last thing it said.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.isolation import signals_held
from drpai_qat.core.text import one_line

_LAST_LINES = 5
_LAST_BYTES = 4096
_GRACE_SECONDS = 5.0
"""Between asking a tool to end and ending it."""


class ToolError(DeploymentError):
    """A tool of the SDK did not do its work."""

    see = "a-tool-of-the-sdk-failed"


def run_tool(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path, timeout: float
) -> int:
    """Run a tool to its end.

    Args:
        name: for messages: "DRP-AI Translator".
        command: program and arguments.
        folder: to run in.
        environment: all of its variables.
        log: its output is appended as it comes.
        timeout: seconds after which it is ended.
    Returns: its exit status; negative: the signal that ended it.
    Raises: ToolError: it can't be started, or takes longer than the timeout.
    """
    with log.open("ab") as output:
        header = one_line(f"$ cd {shlex.quote(str(folder))} && {shlex.join(command)}", 4000)
        output.write(f"\n{header}\n".encode())
        output.flush()
        process = None
        try:
            with signals_held():  # an interrupt inside Popen would leave a process that nobody knows
                process = subprocess.Popen(
                    command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            return process.wait(timeout)
        except OSError as error:
            raise ToolError(f"{name} can't be started: {command[0]}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise ToolError(
                f"{name} has not finished in {timeout:g} s and was ended{last_words(log)}: "
                "give more time with --tool_timeout, or see what it waits for"
            ) from None
        finally:  # Ctrl-C comes this way, too, and a second one waits for the end
            if process is not None:
                with signals_held():
                    _end(process)


def last_words(log: Path) -> str:
    """The last lines of a log, for the end of a message; "" if the tool said nothing."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _LAST_BYTES, 0))
        text = file.read().decode(errors="replace")
    said = text.rsplit("\n$ cd ", 1)[-1].split("\n", 1)[-1] if "\n$ cd " in text else text
    lines = [line for line in said.splitlines() if line.strip()][-_LAST_LINES:]
    return f"; its last lines: {one_line(' | '.join(lines), 600)}" if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tool with all that it started; what it started may outlive it."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    _signal(process.pid, signal.SIGKILL)  # the group of its session: still named so while one of it lives
    process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
