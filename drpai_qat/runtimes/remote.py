"""Runs a deployed network on another machine through TVM's RPC: upload, run, time.

On the board: `pip install apache-tvm numpy`, then `python3 -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090`.
The connection is neither encrypted nor authenticated: use it in a network you trust.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError, OptionError
from drpai_qat.core.tensor_info import as_fed, as_reals
from drpai_qat.core.text import listed, one_line
from drpai_qat.deployment import manifest
from drpai_qat.deployment.files import check_hash, opened
from drpai_qat.deployment.parameters import read_parameters

_BEST_OF = 200  # calls
_FAST_CORES = 1  # TVM: threads on the fastest cores
_MOST_TEXT = 1 << 24  # as in call_clock.c
_ANSWER = 5  # seconds that a tracker may take to answer
_WAIT = 60  # seconds that a machine is waited for while it serves others
_SESSION = 600  # seconds after which a tracker's machine ends a session that its client has forgotten
_SERVER = "start python3 -m tvm.exec.rpc_server there"
_TRACKER = "start python3 -m tvm.exec.rpc_tracker there"


@dataclass(frozen=True)
class Address:
    """HOST:PORT."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """Read "192.168.1.20:9090" or "[::1]:9090".

        Raises: OptionError: something else.
        """
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise OptionError(f"{option} {text!r} is not HOST:PORT, as in 192.168.1.20:9090")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class RemoteNetwork:
    """A deployed network on another machine; use it in a `with` block, which gives the machine back.

    Attributes:
        inputs, outputs: name, shape, dtype and grid of each.
    """

    def __init__(self, folder: Path, address: Address, key: str | None = None) -> None:
        """Connect and upload.

        Args:
            folder: holds deploy.so, deploy.json and deploy.params for that machine.
            address: of an RPC server, or with `key` of a tracker.
            key: kind of machine to ask the tracker for.
        Raises: DeploymentError: no connection, or the machine can't run it.
        """
        from tvm import relax, runtime

        found = manifest.read_network(folder)
        if manifest.LIBRARY not in found.files:
            raise DeploymentError(f"{folder} was compiled for {found.target.get('name')}: it does not run over RPC")
        self.inputs, self.outputs = found.inputs, found.outputs
        library, params = folder / manifest.LIBRARY, folder / manifest.PARAMS
        with opened(library) as code, opened(params) as weights:
            check_hash(code, found.files.get(library.name), library)
            check_hash(weights, found.files.get(params.name), params)
            uploaded, stored = bytearray(code.read()), read_parameters(weights, params)
        self._session = _connect(address, key)
        try:
            self._session.upload(uploaded, manifest.LIBRARY)
            self._device = self._session.cpu(0)
            self._module = self._session.load_module(manifest.LIBRARY)
            self._machine = relax.VirtualMachine(self._module, self._device)
            self._parameters = [runtime.tensor(stored[name], self._device) for name in sorted(stored)]
        except Exception as error:  # TVM's errors have no common base but Exception
            self.close()
            raise DeploymentError(
                f"{address} can't load {folder / manifest.LIBRARY} ({_reason(error)}): it was compiled for "
                f"{found.target.get('name')}; compile it for that machine, with the same apache-tvm on both"
            ) from None

    def __enter__(self) -> RemoteNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop everything remote and end the session; the machine serves the next client only then."""
        for name in ("_machine", "_module", "_parameters", "_device"):
            self.__dict__.pop(name, None)
        session = self.__dict__.pop("_session", None)
        if session is not None:
            with contextlib.suppress(Exception):  # it is gone already: that is what is wanted
                session.get_function("CloseRPCConnection")()

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run once; feeds and result as `runtime.Network.run`, one batch of the model."""
        self._feed(feeds)
        with _named("run"):
            self._machine.invoke_stateful("main")
            result = self._machine.get_outputs("main")
        parts = list(result) if isinstance(result, tuple | list) else [result]
        return {info.name: as_reals(part.numpy(), info) for info, part in zip(self.outputs, parts, strict=True)}

    def times(self, feeds: Mapping[str, NDArray], loops: int) -> list[float]:
        """Milliseconds of each of `loops` runs, measured on that machine: the network's time is not in them."""
        self._feed(feeds)
        with _named("timing"):
            evaluator = self._machine.time_evaluator("invoke_stateful", self._device, number=1, repeat=loops)
            return [1000 * float(seconds) for seconds in evaluator("main").results]

    def clocked(self, feeds: Mapping[str, NDArray], clock: Path) -> There:
        """The network with a clock in it; see `profiling.time_calls`.

        Args:
            clock: the library, for that machine.
        """
        from tvm import relax

        with _named("upload"):
            machine = relax.VirtualMachine(self._module, self._device)
            noting = self._loaded(clock)
            noting["attach"](machine.module)
        self._feed(feeds)
        self._feed(feeds, machine)
        return There(self._machine, machine, noting, self._device)

    def best_seconds(self, library: Path, symbol: str, arguments: Sequence[NDArray]) -> float:
        """See `profiling.best_seconds`."""
        from tvm import runtime

        with _named("timing"):
            module = self._loaded(library)
            tensors = [runtime.tensor(one, self._device) for one in arguments]
            evaluator = module.time_evaluator(symbol, self._device, number=1, repeat=_BEST_OF)
            return float(min(evaluator(*tensors).results))

    def threads(self, wanted: int | None = None) -> int:
        """Threads that TVM uses there; those that are wanted from now on."""
        with _named("setting the threads"):
            if wanted is not None:
                self._session.get_function("runtime.config_threadpool")(_FAST_CORES, wanted)
            return wanted or int(self._session.get_function("runtime.NumThreads")())

    def _loaded(self, library: Path) -> Any:
        self._session.upload(str(library))
        return self._session.load_module(library.name)

    def _feed(self, feeds: Mapping[str, NDArray], machine: Any = None) -> None:
        from tvm import runtime

        arrays = []
        for info in self.inputs:
            if info.name not in feeds or feeds[info.name].shape != info.shape:
                raise DeploymentError(f"input {info.name!r}: feed an array of shape {list(info.shape)}")
            array = as_fed(np.asarray(feeds[info.name]), info)
            arrays.append(runtime.tensor(np.ascontiguousarray(array, info.dtype), self._device))
        with _named("upload"):
            (machine or self._machine).set_input("main", *arrays, *self._parameters)


class There:
    """A network of another machine with a clock in it (`profiling.Clocked`)."""

    def __init__(self, plain: Any, machine: Any, clock: Any, device: Any) -> None:
        """Two of TVM's machines with inputs, of which `clock` is told what the second calls."""
        self._plain, self._machine, self._clock, self._device = plain, machine, clock, device

    def start(self, naming: int) -> None:
        """See Clocked."""
        self._naming = bool(naming)
        with _named("run"):
            self._clock["start"](naming)

    def run(self) -> float:
        """See Clocked."""
        if self._naming:  # once, not twice: nobody asks how long it takes
            with _named("run"):
                self._machine.invoke_stateful("main")
            return 0.0
        return self._microseconds(self._machine)

    def plain_microseconds(self) -> float:
        """See Clocked."""
        return self._microseconds(self._plain)

    def _microseconds(self, machine: Any) -> float:
        """Of a run, by that machine's own clock; TVM runs once more before it."""
        with _named("timing"):
            evaluator = machine.time_evaluator("invoke_stateful", self._device, number=1, repeat=1)
            return 1e6 * float(evaluator("main").results[0])

    def idle(self) -> float:
        """See Clocked."""
        with _named("timing"):
            return int(self._clock["idle"]()) / 1e6

    def events(self, most: int) -> tuple[NDArray[np.int64], str]:
        """See Clocked."""
        from tvm import runtime

        with _named("reading the clock"):
            times = runtime.empty((most,), "int64", self._device)
            text = runtime.empty((_MOST_TEXT,), "uint8", self._device)
            count, length = int(self._clock["times"](times)), int(self._clock["names"](text))
            return times.numpy()[:count], text.numpy()[:length].tobytes().decode()


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn whatever TVM raises over the connection into a named error."""
    try:
        yield
    except Exception as error:  # TVM's errors have no common base but Exception
        raise DeploymentError(f"remote {what} failed ({_reason(error)}): is the RPC server still up?") from None


def _connect(address: Address, key: str | None) -> Any:
    """A session on the machine at `address`, or on one that the tracker there lends."""
    from tvm import rpc

    if key is None:
        session = _within(
            _WAIT, lambda: rpc.connect(address.host, address.port), f"no RPC server at {address}", _SERVER
        )
        if session is None:
            raise DeploymentError(f"{address} serves another client: waited {_WAIT:g} s; try again later")
        return session
    missing = f"no RPC tracker at {address}"
    # TVM itself would try a tracker that is not there for a minute, and wait for ever for one that does not answer.
    _within(_ANSWER, lambda: socket.create_connection((address.host, address.port), _ANSWER).close(), missing, _TRACKER)
    tracker = _within(_ANSWER, lambda: rpc.connect_tracker(address.host, address.port), missing, _TRACKER)
    if tracker is None:
        raise DeploymentError(f"{missing} (no answer): {_TRACKER}")
    deadline = time.monotonic() + _WAIT
    while True:
        known = tracker.summary()["queue_info"]
        if key not in known:
            names = listed(sorted(known)) or "none"
            raise DeploymentError(
                f"tracker {address} knows no machine {key!r} (it knows {names}): choose with --rpc-key"
            )
        if known[key]["free"]:
            break
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"tracker {address}: all machines {key!r} are lent: waited {_WAIT:g} s; try again later"
            )
        time.sleep(0.5)
    request = functools.partial(tracker.request, key, priority=1, session_timeout=_SESSION, max_retry=1)
    session = _within(_WAIT, request, f"tracker {address} lends no machine {key!r}", "is that machine still up?")
    if session is None:
        raise DeploymentError(f"tracker {address}: a machine {key!r} does not answer: restart its RPC server")
    return session


def _within(seconds: float, action: Callable[[], Any], failed: str, advice: str) -> Any:
    """The action's result; None if it takes longer. It may go on in a thread that does not keep the program alive.

    Raises: DeploymentError: the action raised; the message is "{failed} (reason): {advice}".
    """
    results: list[Any] = []

    def act() -> None:
        try:
            results.append(action())
        except Exception as error:  # TVM's errors have no common base but Exception
            results.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if results and isinstance(results[0], Exception):
        raise DeploymentError(f"{failed} ({_reason(results[0])}): {advice}")
    return results[0] if results else None


def _reason(error: Exception) -> str:
    """What happened, without the names of TVM's own checks."""
    text = re.sub(
        r"^\[Errno \d+\] |(RPCError: )?(Error caught from RPC call: )?Check failed: .*? is false:? ?",
        "",
        one_line(error),
    )
    return "no answer" if text.startswith("Check failed") else text
