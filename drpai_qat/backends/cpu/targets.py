"""Machines a network can be compiled for: LLVM's description of the CPU and the instruction set of our kernels."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm.target import codegen

from drpai_qat.core import cpu_features as cpu
from drpai_qat.core.cpu_features import cpu_features
from drpai_qat.core.errors import OptionError
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, AVX_VNNI, NEON, NEON_DOTPROD, SSE42, Isa

# What LLVM's code generator may use of a CPU without being asked, and Linux's name for it.
_LINUX_NAMES = {
    "x86_64": {
        "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt", "avx": "avx",
        "avx2": "avx2", "f16c": "f16c", "fma": "fma", "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm", "movbe": "movbe",
        "gfni": "gfni", "xop": "xop", "fma4": "fma4", "tbm": "tbm", "egpr": "apx", "avxvnni": "avx_vnni",
        "avxifma": "avx_ifma", "avxneconvert": "avx_ne_convert", "avxvnniint8": "avx_vnni_int8",
        "avxvnniint16": "avx_vnni_int16", "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd",
        "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16", "avx512ifma": "avx512ifma", "avx512vbmi": "avx512vbmi",
        "avx512vbmi2": "avx512_vbmi2", "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
    },
    "aarch64": {
        "neon": "asimd", "dotprod": "asimddp", "fullfp16": "asimdhp", "fp16fml": "asimdfhm", "rdm": "asimdrdm",
        "lse": "atomics", "rcpc": "lrcpc", "complxnum": "fcma", "jsconv": "jscvt", "i8mm": "i8mm", "bf16": "bf16",
        "sve": "sve", "sve2": "sve2",
    },
}  # fmt: skip
_TRIPLES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}


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
    def features(self) -> tuple[str, ...]:
        """What the CPU must have for this target's code to run, in Linux's names."""
        return _features(self)

    @property
    def runs_here(self) -> bool:
        """This machine can run its code."""
        return self.machine == cpu.machine() and cpu_features().issuperset(self.features)

    def to_json(self) -> dict[str, Any]:
        """As it stands in deploy.json."""
        return {"name": self.name, "machine": self.machine, "mcpu": self.mcpu, "features": list(self.features)}

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
    # Levels and one feature, not a CPU with both: nothing else may be used, so nothing else is asked of the CPU.
    Target("avx-vnni", AVX_VNNI, "x86-64-v3", mattr=("+avxvnni",)),
    Target("avx512-vnni", AVX512_VNNI, "x86-64-v4", mattr=("+avx512vnni",)),
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


@functools.cache
def _features(target: Target) -> tuple[str, ...]:
    found = {str(name) for name in codegen.llvm_get_cpu_features(target.tvm_target)}
    return tuple(linux for llvm, linux in _LINUX_NAMES[target.machine].items() if llvm in found)


@functools.cache
def host() -> Target:
    """The widest target that this machine runs."""
    kinds = {"x86_64": X86_TARGETS, "aarch64": ARM_TARGETS}.get(cpu.machine())
    if kinds is None:
        raise OptionError(f"no kernels for this machine's CPU ({cpu.machine()}); name one with --target")
    runnable = [target for target in kinds if target.runs_here]
    if not runnable:
        needed = " ".join(kinds[0].features)
        raise OptionError(f"this CPU lacks what the kernels need ({needed}); name another machine with --target")
    return runnable[-1]


def by_name(name: str, mcpu: str | None = None) -> Target:
    """The target of this name; "host" is this machine.

    Args:
        mcpu: LLVM's name of a CPU ("znver3", "cortex-a55"; "native": this one): code for this one, with the widest
            kernels it has, or those of a target named beside it.
    Raises: OptionError: no such target or CPU, or they don't fit; the message lists those there are.
    """
    own = name in ("host", "native")
    if not own and name not in TARGETS:
        raise OptionError(f"no target {name!r}; there are host, {', '.join(TARGETS)}")
    if mcpu is None:
        return host() if own else TARGETS[name]
    return _for_cpu(mcpu, None if own else TARGETS[name])


def _for_cpu(mcpu: str, base: Target | None) -> Target:
    if mcpu == "native":
        mcpu = str(codegen.llvm_get_system_cpu())
    machines = [base.machine] if base else sorted(_TRIPLES, key=lambda machine: machine != cpu.machine())
    known = {machine: _cpus(machine) for machine in machines}
    machine = next((machine for machine in machines if mcpu in known[machine]), None)
    if machine is None:
        everything = [name for names in known.values() for name in names]
        close = difflib.get_close_matches(mcpu, everything, 3) or ["haswell", "znver3", "cascadelake", "cortex-a55"]
        raise OptionError(f"no CPU {mcpu!r} for {' or '.join(machines)}; perhaps {', '.join(close)}")
    kinds = (base,) if base else X86_TARGETS if machine == "x86_64" else ARM_TARGETS
    found = [replace(kind, mcpu=mcpu, mattr=kind.mattr if base and base.isa.arm else ()) for kind in kinds]
    fitting = [target for target in found if set(target.isa.features) <= set(target.features)]
    if not fitting:
        missing = ", ".join(sorted(set(found[0].isa.features) - set(found[0].features)))
        raise OptionError(f"CPU {mcpu} lacks {missing}, which --target {found[0].name} needs: drop one of them")
    return fitting[-1]


@functools.cache
def _cpus(machine: str) -> tuple[str, ...]:
    """LLVM's names of this machine's 64-bit CPUs."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": _TRIPLES[machine]})
    return tuple(str(name) for name in codegen.llvm_get_cpu_archlist(target))
