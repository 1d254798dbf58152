"""Runs a deployed network on another machine through TVM's RPC: upload, run, time.

On the board: `pip install apache-tvm numpy`, then `python3 -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090`.
The connection is neither encrypted nor authenticated: use it in a network you trust.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat import manifest
from drpai_qat.errors import DeploymentError, OptionError
from drpai_qat.text import listed, one_line

_ANSWER = 5  # seconds that a server may take to accept a connection
_TIMEOUT = 60  # seconds that a board of a pool is kept, and waited for


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

        found = manifest.read(folder)
        self.inputs, self.outputs = found.inputs, found.outputs
        self._session = _connect(address, key)
        try:
            self._session.upload(str(folder / manifest.LIBRARY))
            self._device = self._session.cpu(0)
            module = self._session.load_module(manifest.LIBRARY)
            self._machine = relax.VirtualMachine(module, self._device)
            stored = runtime.load_param_dict((folder / manifest.PARAMS).read_bytes())
            self._parameters = [runtime.tensor(stored[name].numpy(), self._device) for name in sorted(stored)]
        except OSError as error:
            self.close()
            raise DeploymentError(f"{folder} can't be read: {error.strerror}: copy the whole folder") from None
        except Exception as error:  # TVM's errors have no common base but Exception
            self.close()
            raise DeploymentError(
                f"{address} can't load {folder / manifest.LIBRARY}: {one_line(error)}: compile it for that machine, "
                "with the same version of apache-tvm on both"
            ) from None

    def __enter__(self) -> RemoteNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop everything remote and end the session; the machine serves the next client only then."""
        for name in ("_machine", "_parameters", "_device"):
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
        return {info.name: part.numpy() for info, part in zip(self.outputs, parts, strict=True)}

    def times(self, feeds: Mapping[str, NDArray], loops: int) -> list[float]:
        """Milliseconds of each of `loops` runs, measured on that machine: the network's time is not in them."""
        self._feed(feeds)
        with _named("timing"):
            evaluator = self._machine.time_evaluator("invoke_stateful", self._device, number=1, repeat=loops)
            return [1000 * float(seconds) for seconds in evaluator("main").results]

    def _feed(self, feeds: Mapping[str, NDArray]) -> None:
        from tvm import runtime

        arrays = []
        for info in self.inputs:
            if info.name not in feeds or feeds[info.name].shape != info.shape:
                raise DeploymentError(f"input {info.name!r}: feed an array of shape {list(info.shape)}")
            arrays.append(runtime.tensor(np.ascontiguousarray(feeds[info.name], info.dtype), self._device))
        with _named("upload"):
            self._machine.set_input("main", *arrays, *self._parameters)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn whatever TVM raises over the connection into a named error."""
    try:
        yield
    except Exception as error:  # TVM's errors have no common base but Exception
        raise DeploymentError(f"remote {what} failed: {one_line(error)}: is the RPC server still up?") from None


def _connect(address: Address, key: str | None) -> Any:
    from tvm import rpc

    try:
        if key is None:
            return rpc.connect(address.host, address.port)
        # TVM itself would try a tracker that is not there for a minute.
        socket.create_connection((address.host, address.port), _ANSWER).close()
        tracker = rpc.connect_tracker(address.host, address.port)
        known = sorted(tracker.summary()["queue_info"])
        if key not in known:  # the tracker would wait for one for ever
            raise LookupError(f"it knows {listed(known) or 'none'}")
        return tracker.request(key, priority=1, session_timeout=_TIMEOUT, max_retry=1)
    except Exception as error:  # TVM's errors have no common base but Exception
        asked = "no RPC server" if key is None else f"no free machine {key!r} at the tracker"
        start = "start python3 -m tvm.exec.rpc_server there" if key is None else "choose with --rpc-key"
        raise DeploymentError(f"{address}: {asked} ({one_line(error)}): {start}") from None
