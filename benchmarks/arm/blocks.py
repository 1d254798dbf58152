"""Blocks of code that ran: read from the plugin's file, placed in their libraries and functions, classified."""

from __future__ import annotations

import bisect
import functools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_DOT = ("sdot", "udot", "usdot", "sudot")
_MULTIPLY = ("smull", "umull", "smlal", "umlal", "smlsl", "sadalp", "uadalp", "mla", "mul", "sqdmulh", "sqrdmulh")


@dataclass(frozen=True)
class Block:
    """Instructions that run from the first to the last.

    Attributes:
        library, offset: where they are; library "" is outside any file.
        code: one number an instruction.
        count: how often.
    """

    library: str
    offset: int
    code: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Counts:
    """What ran between two moments."""

    blocks: tuple[Block, ...]

    def function(self, block: Block) -> str:
        """Name of the function that holds a block; a kernel's own name for TVM's functions around it."""
        if not block.library:
            return "(generated)"
        starts, names = _symbols(block.library)
        index = bisect.bisect_right(starts, block.offset) - 1
        library = Path(block.library).name
        if index < 0 or library != "deploy.so":
            return library if library != "deploy.so" else "deploy.so"
        return re.sub(r"^__tvm_ffi_|_compute_$", "", names[index])

    def by_function(self) -> dict[str, Counter[str]]:
        """Instructions of each kind in each function."""
        kinds = _classify(sorted({word for block in self.blocks for word in block.code}))
        result: dict[str, Counter[str]] = {}
        for block in self.blocks:
            counter = result.setdefault(self.function(block), Counter())
            for word in block.code:
                counter[kinds[word]] += block.count
        return result


def read(data: bytes, maps: str) -> Counts:
    """The plugin's file, and /proc/self/maps of the program."""
    places = []
    for line in maps.splitlines():
        fields = line.split()
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            first, last = (int(part, 16) for part in fields[0].split("-"))
            places.append((first, last, int(fields[2], 16), fields[5]))
    places.sort()
    totals: Counter[tuple[str, int, tuple[int, ...]]] = Counter()
    at = 0
    while at < len(data):
        address, count, size = (int(x) for x in np.frombuffer(data, "<u8", 3, at))
        code = tuple(np.frombuffer(data, "<u4", size, at + 24).tolist())
        at += 24 + 4 * size
        index = bisect.bisect_right(places, (address, 1 << 63)) - 1
        first, last, offset, library = places[index] if index >= 0 else (0, 0, 0, "")
        if first <= address < last:
            totals[library, address - first + offset, code] += count
        else:
            totals["", address, code] += count
    return Counts(tuple(Block(*key, count) for key, count in totals.items()))


def subtract(longer: Counts, shorter: Counts) -> Counts:
    """What the longer run did more."""
    before = {(b.library, b.offset, b.code): b.count for b in shorter.blocks}
    rest = []
    for b in longer.blocks:
        count = b.count - before.get((b.library, b.offset, b.code), 0)
        if count > 0:
            rest.append(Block(b.library, b.offset, b.code, count))
    return Counts(tuple(rest))


@functools.cache
def _symbols(library: str) -> tuple[list[int], list[str]]:
    done = subprocess.run(
        ["aarch64-linux-gnu-nm", "--defined-only", "-n", library], capture_output=True, text=True, check=False
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    functions = [(int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tTwW"]
    return [start for start, _ in functions], [name for _, name in functions]


def disassemble(words: Sequence[int]) -> list[tuple[str, str]]:
    """Mnemonic and operands of each instruction."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(np.asarray(words, "<u4").tobytes())
        file.flush()
        command = ["aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in text.splitlines() if re.match(r"\s*[0-9a-f]+:\t", line)]
    return [(row[2].strip(), row[3].strip() if len(row) > 3 else "") for row in rows]


def _classify(words: Sequence[int]) -> dict[int, str]:
    return {word: _kind(*text) for word, text in zip(words, disassemble(words), strict=True)}


def _kind(mnemonic: str, operands: str) -> str:
    if mnemonic.startswith(("ld", "prfm")):
        return "load"
    if mnemonic.startswith("st"):
        return "store"
    if mnemonic in _DOT:
        return "dot"
    if not re.match(r"[vqdshb]\d", operands) and not re.search(r"\bv\d+\.", operands):
        return "scalar"
    return "multiply" if mnemonic.rstrip("2") in _MULTIPLY else "vector"
