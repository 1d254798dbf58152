"""Where the time of a run goes: kernels as they were measured, and the layers that report.json says they belong to.

profile.json beside report.json holds it; the page in report.html may show its shares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drpai_qat.core.errors import DeploymentError
from drpai_qat.deployment.folder import PROFILE, named_os_errors
from drpai_qat.report.content import FILE
from drpai_qat.runtimes.profiling import CallTimes

SCHEMA_VERSION = 1
_UNKNOWN = ""
_LEAST_RUNS = 3
_MOST_IDLE = 4  # times an idle call of the clock that one in a network may take


@dataclass(frozen=True)
class KernelTime:
    """One kernel of a run.

    Attributes:
        kernel, kind: its symbol, and what that begins with.
        layer: the node whose step it is; "" where report.json does not tell.
        us: microseconds.
    """

    kernel: str
    kind: str
    layer: str
    us: float


@dataclass(frozen=True)
class LayerTime:
    """One layer: a node of the canonical model, with what is fused into it.

    Attributes:
        name, op, compute, macs: as report.json's `coverage` has them.
        kernels: number of its kernels.
        us: microseconds of all of them.
    """

    name: str
    op: str
    compute: str
    macs: int
    kernels: int
    us: float

    @property
    def gmacs(self) -> float:
        """Giga-multiply-accumulates a second."""
        return self.macs / self.us / 1000 if self.us else 0.0


@dataclass(frozen=True)
class Profile:
    """A network on a machine.

    Attributes:
        model, target: names.
        where: "this machine", or HOST:PORT.
        threads: of TVM; None: as many as it chooses there.
        loops: measured runs.
        whole_us: of a run without the clock.
        calls_us: that TVM's machine takes itself: its calls of kernels, allocations and checks of shapes.
        kernels: in the order in which they ran.
        layers: in the order of computation; none where report.json does not tell.
        calls: of TVM's machine in a run.
        ceiling: GMAC/s of the machine's threads with exact 8-bit products and nothing else; None: not measured.
    """

    model: str
    target: str
    where: str
    threads: int | None
    loops: int
    whole_us: float
    calls_us: float
    kernels: tuple[KernelTime, ...]
    layers: tuple[LayerTime, ...]
    calls: int
    ceiling: float | None

    @property
    def kernels_us(self) -> float:
        """Sum of the kernels."""
        return sum(one.us for one in self.kernels)

    @property
    def sum_us(self) -> float:
        """Of kernels and calls."""
        return self.kernels_us + self.calls_us

    @property
    def macs(self) -> int:
        """Of all layers."""
        return sum(one.macs for one in self.layers)

    @property
    def disturbed(self) -> bool:
        """Kernels and calls do not add up to the whole: the machine did other work."""
        return abs(self.whole_us - self.sum_us) > 0.1 * self.whole_us

    def to_json(self) -> dict[str, Any]:
        """The content of profile.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "target": self.target,
            "where": self.where,
            "threads": self.threads,
            "loops": self.loops,
            "whole_us": _rounded(self.whole_us),
            "kernels_us": _rounded(self.kernels_us),
            "calls_us": _rounded(self.calls_us),
            "calls": self.calls,
            "disturbed": self.disturbed,
            "ceiling_gmac_per_s": None if self.ceiling is None else _rounded(self.ceiling),
            "layers": [
                {
                    **asdict(one),
                    "us": _rounded(one.us),
                    "share": _share(one.us, self.sum_us),
                    "gmac_per_s": _rounded(one.gmacs),
                    "ceiling_share": None if self.ceiling is None else _share(one.gmacs, self.ceiling),
                }
                for one in self.layers
            ],
            "kernels": [
                {**asdict(one), "us": _rounded(one.us), "share": _share(one.us, self.sum_us)} for one in self.kernels
            ],
        }

    def write(self, folder: Path) -> None:
        """Write profile.json beside report.json."""
        with named_os_errors(folder):
            (folder / PROFILE).write_text(
                json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )


def _rounded(value: float) -> float:
    return round(value, 3)


def _share(part: float, whole: float) -> float:
    return round(part / whole, 5) if whole else 0.0


def read_report(folder: Path) -> Mapping[str, Any]:
    """The report of a compilation; empty where the folder holds none, as bundles do.

    Raises: DeploymentError: it is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{path} can't be read: {error}: compile it again") from None


def attribute(times: CallTimes, report: Mapping[str, Any]) -> list[str]:
    """The layer of each kernel; "" for all where report.json does not describe this network's steps."""
    steps = report.get("kernels", ())
    kinds = [name.rpartition("_")[0] for name in times.step_names]
    if kinds != [str(step["kind"]) for step in steps]:
        return [_UNKNOWN] * len(times.names)
    return [str(steps[index]["node"]) for index in times.steps]


def profile_of(
    times: CallTimes, report: Mapping[str, Any], *, model: str, target: str, where: str, threads: int | None,
    ceiling: float | None,
) -> Profile:  # fmt: skip
    """Put measured kernels together to layers.

    The fastest runs count, a tenth of them and three at least: what other programs took from the rest is not the
    network's. A call of the clock costs what runs with it take longer than those without, as far as that is between the
    time of an idle call and some times that (the machine hands it arguments). Half of each of two such calls lies
    within a kernel's time, and all others between kernels:

        calls = run with the clock - kernels as seen - cost * (2 * calls - kernels)

    So kernels and calls add up to a run without the clock, or else something disturbed one of the three.
    """
    totals = times.kernels.sum(1)
    calm = np.argsort(totals)[: max(_LEAST_RUNS, len(totals) // 10)]
    seen = times.kernels[calm].mean(0)
    whole, clocked = (float(np.sort(one)[: len(calm)].mean()) for one in (times.whole, times.clocked))
    cost = min(max((clocked - whole) / max(2 * times.calls, 1), times.idle), _MOST_IDLE * times.idle)
    taken = np.maximum(seen - cost, 0)
    between = clocked - float(seen.sum()) - cost * (2 * times.calls - len(seen))
    owners = attribute(times, report)
    kernels = tuple(
        KernelTime(name, name.rpartition("_")[0] or name, layer, float(us))
        for name, layer, us in zip(times.names, owners, taken, strict=True)
    )
    return Profile(
        model=model,
        target=target,
        where=where,
        threads=threads,
        loops=len(totals),
        whole_us=whole,
        calls_us=max(between, 0.0),
        kernels=kernels,
        layers=_layers(kernels, report),
        calls=times.calls,
        ceiling=ceiling,
    )


def _layers(kernels: Sequence[KernelTime], report: Mapping[str, Any]) -> tuple[LayerTime, ...]:
    found: dict[str, list[KernelTime]] = {}
    for one in kernels:
        if one.layer != _UNKNOWN:
            found.setdefault(one.layer, []).append(one)
    accounts: dict[str, list[Mapping[str, Any]]] = {}
    for entry in report.get("coverage", ()):
        accounts.setdefault(str(entry["node"]), []).append(entry)
    layers = []
    for name, own in found.items():
        told = accounts.get(name, [{}])
        layers.append(
            LayerTime(
                name,
                str(told[0].get("op", "")),
                str(told[0].get("compute", "")),
                sum(int(entry.get("macs", 0)) for entry in told),
                len(own),
                sum(one.us for one in own),
            )
        )
    return tuple(layers)
