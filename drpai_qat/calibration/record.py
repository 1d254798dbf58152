"""-r DIR: the ranges that data showed, kept in a file, so that the next compilation need not run all data again.

DIR/ranges.json holds them by name of the tensor, with what they depend on: the folded model, the data (its name, the
number and the SHA-256 of its frames) and the method. What was recorded for anything else is not used. Beside it lies,
until they are found, what an interrupted run has seen (`unfinished.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from drpai_qat.calibration.ranges import Range
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.seen import Mark
from drpai_qat.calibration.unfinished import Unfinished, put
from drpai_qat.core.errors import OptionError

RANGES = "ranges.json"
_UNFINISHED = "unfinished.npz"
_MOST_BYTES = 64 << 20

Key = dict[str, Any]
"""What ranges depend on."""


@dataclass(frozen=True)
class Record:
    """Where ranges are kept.

    Attributes:
        folder: made when they are written.
        data: name of the data.
    """

    folder: Path
    data: str

    def __post_init__(self) -> None:
        """Refuse a place that can't be written before data is looked at."""
        existing = next(one for one in (self.folder, *self.folder.absolute().parents) if one.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise OptionError(f"-r {self.folder}: can't be written: give another folder")

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / RANGES

    def key(self, model: onnx.ModelProto, expected: int | None, recipe: Recipe) -> Key:
        """What ranges depend on, besides the frames.

        Args:
            expected: how many frames there are, if that is known.
        """
        return {
            "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "data": {"name": self.data, "frames": expected},
            "method": {"name": recipe.method, "share": recipe.share if recipe.method == "percentile" else None},
        }

    def unfinished(self, key: Key) -> Unfinished:
        """What an interrupted run has seen."""
        return Unfinished(self.folder / _UNFINISHED, key)

    def read(self, key: Key, names: Iterable[str]) -> tuple[dict[str, Range], Mark] | None:
        """The ranges of these tensors, and the frames that they were taken from; None: not recorded.

        Raises: OptionError: there is a file that is no record.
        """
        if not self.path.exists():
            return None
        try:
            if self.path.stat().st_size > _MOST_BYTES:
                raise ValueError("too large")
            told = json.loads(self.path.read_text(encoding="utf-8"))
            ranges = {str(name): (float(low), float(high)) for name, (low, high) in told["ranges"].items()}
            seen, mark = set(told["seen_of"]), Mark(int(told["frames"]), str(told.get("sha256")))
            if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in ranges.values()):
                raise ValueError("a range is not finite")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise OptionError(f"-r: {self.path} is no record of ranges: remove it, or give another folder") from None
        return (ranges, mark) if told.get("of") == key and seen == set(names) else None

    def write(self, key: Key, names: Iterable[str], ranges: Mapping[str, Range], mark: Mark) -> None:
        """Keep ranges, instead of what was there.

        Raises: OptionError: they can't be written.
        """
        told = {
            "of": key, "frames": mark.frames, "sha256": mark.sha256, "seen_of": sorted(names),
            "ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()},
        }  # fmt: skip
        put(self.path, (json.dumps(told, indent=1) + "\n").encode())
        self.unfinished(key).drop()
