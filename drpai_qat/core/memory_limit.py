"""How much memory a compilation may take, so that what would take more is refused before it is taken.

Sizes of tensors are known before anything computes them; a file of 400 bytes can ask for a terabyte.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from pathlib import Path

from drpai_qat.core.errors import ModelError, OptionError

LARGEST_TENSOR = 2**31 - 1
"""Elements: kernels count in int32."""
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SHARE = 0.8
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class MemoryLimit:
    """A number of bytes."""

    bytes: int

    @classmethod
    def of(cls, text: str | None) -> MemoryLimit:
        """What --max-memory says ("8G", "500M"); of this machine if it says nothing.

        Raises: OptionError: it is no size.
        """
        return cls.of_machine() if text is None else cls(parsed_size(text))

    @classmethod
    def of_machine(cls) -> MemoryLimit:
        """80% of the memory that is available here, or that this process may take, if that is less."""
        limits = [_available(), *map(_of_file, _CGROUPS), resource.getrlimit(resource.RLIMIT_AS)[0]]
        known = [one for one in limits if one is not None and 0 < one < 2**60]
        return cls(int(_SHARE * min(known))) if known else cls(2**62)

    def require(self, needed: int, what: str) -> None:
        """Refuse what takes more.

        Args:
            needed: bytes.
            what: takes them; the beginning of a sentence.
        Raises: ModelError
        """
        if needed > self.bytes:
            raise ModelError(
                f"{what} takes {written_size(needed)}, and {written_size(self.bytes)} may be taken: "
                "make the model smaller, or allow more with --max-memory"
            )


def parsed_size(text: str) -> int:
    """Bytes of "8G", "500M", "1.5 GB".

    Raises: OptionError
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)i?b?\s*", text, re.IGNORECASE)
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2].lower()])
    if size <= 0:
        raise OptionError(f"--max_memory {text!r} is no size: give 500M, 8G or the like")
    return size


def written_size(count: int) -> str:
    """Bytes as people read them: "3.7 GB"."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if count >= 1024**power:
            return f"{min(count, 10**21) / 1024**power:,.1f} {unit}"
    return f"{count / 1024:.1f} kB"


def _available() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _of_file(path: str) -> int | None:
    """A number in a file of the kernel."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
