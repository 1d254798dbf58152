"""What this machine's CPU can do, and whether compiled code may run on it. Knows neither TVM nor ONNX.

Features have Linux's names, as in /proc/cpuinfo.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterable
from pathlib import Path

_V2 = ("pni", "ssse3", "sse4_1", "sse4_2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "f16c", "fma", "bmi1", "bmi2", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
LEVELS = {
    "x86_64": {
        "x86-64-v2": _V2,
        "avx2": _V3,
        "avx-vnni": (*_V3, "avx_vnni"),
        "avx512-vnni": (*_V4, "avx512_vnni"),
    },
    "aarch64": {
        "aarch64": ("asimd",),
        "aarch64-dotprod": ("asimd", "asimddp", "asimdhp", "asimdrdm", "atomics", "lrcpc"),
    },
}
"""By machine, targets from the narrowest to the widest and what their code needs."""

# <asm/hwcap.h> of Linux: bit by name, in the words AT_HWCAP and AT_HWCAP2. /proc/cpuinfo is the host's under emulation.
_ARM_HWCAPS = (
    (16, {"fp": 0, "asimd": 1, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12, "jscvt": 13, "fcma": 14,
          "lrcpc": 15, "asimddp": 20, "sve": 22, "asimdfhm": 23}),
    (26, {"sve2": 1, "i8mm": 13, "bf16": 14}),
)  # fmt: skip


def machine() -> str:
    """This machine's kind: "x86_64", "aarch64", or what the system calls another."""
    name = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def cpu_features() -> frozenset[str]:
    """Features of this machine's CPU; empty where the system does not say."""
    if machine() == "aarch64":
        try:
            words = [(ctypes.CDLL(None).getauxval(word), bits) for word, bits in _ARM_HWCAPS]
        except (OSError, AttributeError):
            return frozenset()
        return frozenset(name for value, bits in words for name, bit in bits.items() if value >> bit & 1)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def best_target() -> str:
    """Name of the widest target that this CPU runs; "host" where that is not known."""
    features = cpu_features()
    names = [name for name, needed in LEVELS.get(machine(), {}).items() if features.issuperset(needed)]
    return names[-1] if names else "host"


def why_not_here(built_for: str, features: Iterable[str]) -> str:
    """Why this machine can't run code that needs these features; "" if it can, or if it is not known.

    Args:
        built_for: "x86_64" or "aarch64".
    """
    if built_for != machine():
        return f"this machine is {machine()}, not {built_for}"
    known = cpu_features()
    missing = sorted(set(features) - known)
    return f"this CPU lacks {', '.join(missing)}" if known and missing else ""
