"""Machines a network can be compiled for: LLVM's description of the CPU and the instruction set of our kernels."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

import tvm

from drpai_qat.errors import OptionError
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, AVX_VNNI, NEON, NEON_DOTPROD, SSE42, Isa


@dataclass(frozen=True)
class Target:
    """One kind of machine.

    Attributes:
        name: as users write it after `--target`.
        isa: instruction set of the kernels.
        mcpu, mtriple, mattr: LLVM's CPU, triple ("" for this machine's) and extra features.
    """

    name: str
    isa: Isa
    mcpu: str
    mtriple: str = ""
    mattr: tuple[str, ...] = ()

    @property
    def machine(self) -> str:
        """What `platform.machine()` says on it."""
        return "aarch64" if self.isa.arm else "x86_64"

    @property
    def tvm_target(self) -> tvm.target.Target:
        """As TVM's compiler takes it."""
        fields: dict[str, object] = {"kind": "llvm", "mcpu": self.mcpu}
        if self.mtriple:
            fields["mtriple"] = self.mtriple
        if self.mattr:
            fields["mattr"] = list(self.mattr)
        return tvm.target.Target(fields)


X86_TARGETS = (
    Target("x86-64-v2", SSE42, "x86-64-v2"),
    Target("avx2", AVX2, "x86-64-v3"),
    Target("avx-vnni", AVX_VNNI, "alderlake"),
    Target("avx512-vnni", AVX512_VNNI, "cascadelake"),
)
_ARM64 = "aarch64-linux-gnu"
ARM_TARGETS = (
    Target("aarch64", NEON, "cortex-a53", _ARM64),
    Target("aarch64-dotprod", NEON_DOTPROD, "cortex-a76", _ARM64, ("+dotprod",)),
)
BOARDS = (
    # Both: four Cortex-A55.
    Target("rzv2h", NEON_DOTPROD, "cortex-a55", _ARM64, ("+dotprod",)),
    Target("rzv2n", NEON_DOTPROD, "cortex-a55", _ARM64, ("+dotprod",)),
)
TARGETS = {target.name: target for target in (*X86_TARGETS, *ARM_TARGETS, *BOARDS)}


def cpu_features() -> frozenset[str]:
    """Feature names of this machine's CPU as the kernel reports them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


@functools.cache
def host() -> Target:
    """The widest target that this machine runs."""
    kinds = {"x86_64": X86_TARGETS, "AMD64": X86_TARGETS, "aarch64": ARM_TARGETS}.get(platform.machine())
    if kinds is None:
        raise OptionError(f"no kernels for this machine's CPU ({platform.machine()}); name one with --target")
    features = cpu_features()
    runnable = [target for target in kinds if features.issuperset(target.isa.features)]
    if not runnable:
        needed = " ".join(kinds[0].isa.features)
        raise OptionError(f"this CPU lacks what the kernels need ({needed}); name another machine with --target")
    return runnable[-1]


def by_name(name: str) -> Target:
    """The target of this name; "host" is this machine.

    Raises: OptionError: no such target; the message lists those there are.
    """
    if name in ("host", "native"):
        return host()
    if name not in TARGETS:
        raise OptionError(f"no target {name!r}; there are host, {', '.join(TARGETS)}")
    return TARGETS[name]
