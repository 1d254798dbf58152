"""Running a deployed folder here and over TVM's RPC, with a server and a tracker of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from drpai_qat.cli.main import main
from drpai_qat.core.errors import OptionError
from drpai_qat.runtimes import remote
from drpai_qat.runtimes.remote import Address

rpc = pytest.importorskip("tvm.rpc")
pytest.importorskip("cloudpickle")
pytest.importorskip("tornado")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Somebody accepts connections; looked up rather than tried, because trying would count as a client."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


# Ends the server and its children when this process ends, even killed: then nothing is left to read.
_WATCHED = '"$@" & read _; kill -KILL 0'


@contextmanager
def service(module: str, *arguments: str) -> Iterator[str]:
    """One of TVM's servers; HOST:PORT at which it listens."""
    for _ in range(3):  # another process may take the port in between
        port = free_port()
        command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(
            ["sh", "-c", _WATCHED, "sh", *command, "--port-end", str(port + 1), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not listens(port) and time.monotonic() < deadline:
                time.sleep(0.1)
            if listens(port):
                yield f"127.0.0.1:{port}"
                return
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
    pytest.fail(f"{module} did not start")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with service("rpc_server") as address:
        yield address


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a tracker may take longer to answer than a user would wait."""
    monkeypatch.setattr(remote, "_ANSWER", 60)


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    """A tracker that lends one machine, "board"."""
    with service("rpc_tracker") as address, service("rpc_server", "--tracker", address, "--key", "board"):
        host, _, port = address.partition(":")
        deadline = time.monotonic() + 60  # the server registers after it says that it listens
        while not rpc.connect_tracker(host, int(port)).summary()["queue_info"].get("board", {}).get("free"):
            assert time.monotonic() < deadline, "the server did not register"
            time.sleep(0.2)
        yield address


def test_run_here(small_output: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", str(small_output), "-n", "3", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "100.00% identical" in printed
    assert "(3 runs)" in printed
    reference = np.fromfile(small_output / "interpreter_out" / "ref_result_0.bin", "<f4")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "output_0.bin", "<f4"), reference)


def test_run_over_rpc(small_output: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the server serves one after the other
        assert main(["run", str(small_output), "-n", "4", "--rpc", server]) == 0
        printed = capsys.readouterr().out
        assert "100.00% identical" in printed
        assert "(4 runs)" in printed


def test_profile_over_rpc(small_output: Path, server: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(small_output, folder)
    assert main(["profile", str(folder), "-n", "2", "--threads", "1", "--rpc", server]) == 0
    found = json.loads((folder / "profile.json").read_text())
    assert (found["where"], found["threads"]) == (server, 1)
    assert all(one["layer"] for one in found["kernels"])
    assert main(["run", str(small_output), "-n", "2", "--rpc", server]) == 0  # the machine was given back


def test_a_difference_is_exit_3(small_output: Path, server: str, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(small_output, folder)
    reference = folder / "interpreter_out" / "ref_result_0.bin"
    (np.fromfile(reference, "<f4") + np.float32(1)).tofile(reference)
    assert main(["run", str(folder), "-n", "1", "--rpc", server]) == 3


@pytest.mark.usefixtures("patient")
def test_tracker_lends_a_machine(small_output: Path, tracker: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(small_output), "-n", "2", "--rpc-tracker", tracker, "--rpc-key"]
    for _ in range(2):
        assert main([*arguments, "board"]) == 0
        assert "100.00% identical" in capsys.readouterr().out
    assert main([*arguments, "other"]) == 1
    assert "knows no machine 'other' (it knows board)" in capsys.readouterr().err


@pytest.mark.usefixtures("patient")
def test_a_busy_machine_is_not_waited_for_for_ever(
    small_output: Path, tracker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host, _, port = tracker.partition(":")
    monkeypatch.setattr(remote, "_WAIT", 0.5)
    with service("rpc_server") as server:
        held = rpc.connect(host, int(server.partition(":")[2]))
        assert main(["run", str(small_output), "--rpc", server]) == 1
        assert "serves another client" in capsys.readouterr().err
        del held
    lent = rpc.connect_tracker(host, int(port)).request("board", session_timeout=600)
    assert main(["run", str(small_output), "--rpc-tracker", tracker, "--rpc-key", "board"]) == 1
    assert "all machines 'board' are lent" in capsys.readouterr().err
    lent.get_function("CloseRPCConnection")()


def test_nobody_answers(small_output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, what in (("--rpc", "RPC server"), ("--rpc-tracker", "RPC tracker")):
        assert main(["run", str(small_output), option, f"127.0.0.1:{free_port()}"]) == 1
        error = capsys.readouterr().err
        assert f"no {what} at 127.0.0.1" in error
        assert error.count("\n") == 1


def test_somebody_else_answers(
    small_output: Path, server: str, tracker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, address in (("--rpc", tracker), ("--rpc-tracker", server)):
        assert main(["run", str(small_output), option, address]) == 1
        assert f"at {address}" in capsys.readouterr().err


def test_code_for_another_machine(
    small_output: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(small_output, folder)
    code = bytearray((folder / "deploy.so").read_bytes())
    code[18] = 183  # ELF's machine: Arm64
    (folder / "deploy.so").write_bytes(code)
    assert main(["run", str(folder), "--rpc", server]) == 1
    assert "is not the file that was compiled" in capsys.readouterr().err
    content = json.loads((folder / "deploy.json").read_text())
    content["files"]["deploy.so"] = hashlib.sha256(code).hexdigest()
    (folder / "deploy.json").write_text(json.dumps(content))
    assert main(["run", str(folder), "--rpc", server]) == 1
    assert "compile it for that machine" in capsys.readouterr().err


def test_wrong_usage(small_output: Path) -> None:
    both = ["--rpc", "a:1", "--rpc-tracker", "b:2"]
    assert main(["run", str(small_output), *both]) == 2
    assert main(["run", str(small_output), "--rpc-key", "board"]) == 2


def test_addresses() -> None:
    assert Address.parse("192.168.1.20:9090", "--rpc") == Address("192.168.1.20", 9090)
    assert Address.parse("[::1]:9090", "--rpc").host == "::1"
    for text in ("board", "board:", ":9090", "board:http", "board:70000"):
        with pytest.raises(OptionError, match="--rpc"):
            Address.parse(text, "--rpc")
