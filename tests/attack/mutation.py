"""Makes a damaged, hostile or merely unusual file of a sound one: the same seed makes the same file.

One in ten is damaged by bytes, as a broken disk or an editor does it, two by structure (damage.py). The others are
changed in ways that leave them valid (legal.py), one in seven of them with damage on top.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from tests.attack.damage import DAMAGE
from tests.attack.legal import LEGAL

KINDS = {**DAMAGE, **LEGAL}
_MORE_OF = ["operators"] * 5 + ["weights", "grids"] * 2
"""Of what reaches most of the compiler."""


@dataclass(frozen=True)
class Mutant:
    """A file, what was done to it, and the class that counts it."""

    content: bytes
    kind: str
    told: str


def mutant(content: bytes, seed: int) -> Mutant:
    """The mutant of a file that belongs to a seed."""
    rng = random.Random(seed)
    way = rng.random()
    if way < 0.1:
        return Mutant(*damaged_bytes(content, rng))
    model = onnx.ModelProto.FromString(content)
    damage, legal = sorted(DAMAGE), sorted(LEGAL) + _MORE_OF
    done = [_changed(model, damage if way < 0.3 else legal, rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    if way > 0.9:
        done.append(_changed(model, damage, rng))
    return Mutant(model.SerializeToString(), done[0][0], "; ".join(map(": ".join, done)))


def _changed(model: onnx.ModelProto, kinds: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """One of the kinds, and what it did."""
    kind = ""
    for _ in range(5):
        kind = rng.choice(kinds)
        try:
            return kind, KINDS[kind](model, rng)
        except (IndexError, ValueError, TypeError):  # nothing there to change, or a value that no field takes
            pass
    return kind, "nothing"


def damaged_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    """The content of any file, damaged; the class; and how."""
    data = bytearray(content)
    way = rng.choice(("flip", "truncate", "insert", "repeat", "zero"))
    at = rng.randrange(len(data))
    size = rng.choice((1, 2, 8, 64, 1024))
    if way == "flip":
        for _ in range(rng.choice((1, 4, 32))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "truncate":
        del data[at:]
    elif way == "insert":
        data[at:at] = rng.randbytes(size)
    elif way == "repeat":
        data[at:at] = data[at : at + size]
    else:
        data[at : at + size] = bytes(len(data[at : at + size]))
    return bytes(data), "bytes", f"{way} at {at}"
