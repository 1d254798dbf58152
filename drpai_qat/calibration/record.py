"""-r DIR: the ranges that data showed, kept in a file, so that the next compilation need not look at all data again.

DIR/ranges.json holds them by name of the tensor, with what they depend on: the folded model, the data (name, number of
frames where it is known, the first frame's content) and the method. What was recorded for anything else is not used.
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

import numpy as np
import onnx

from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.ranges import Range
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.core.errors import OptionError

RANGES = "ranges.json"
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

    def key(self, model: onnx.ModelProto, frames: Iterable[Frame], expected: int | None, recipe: Recipe) -> Key:
        """What ranges depend on.

        Args:
            expected: how many frames there are, if that is known.
        """
        digest = hashlib.sha256()
        for name, value in sorted(next(iter(frames), {}).items()):
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return {
            "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "data": {"name": self.data, "frames": expected, "first_frame": digest.hexdigest()},
            "method": {"name": recipe.method, "share": recipe.share if recipe.method == "percentile" else None},
        }

    def read(self, key: Key, names: Iterable[str]) -> tuple[dict[str, Range], int] | None:
        """The ranges of these tensors, and how many frames they were taken from; None: not recorded.

        Raises: OptionError: there is a file that is no record.
        """
        if not self.path.exists():
            return None
        try:
            if self.path.stat().st_size > _MOST_BYTES:
                raise ValueError("too large")
            told = json.loads(self.path.read_text(encoding="utf-8"))
            ranges = {str(name): (float(low), float(high)) for name, (low, high) in told["ranges"].items()}
            seen, count = set(told["seen_of"]), int(told["frames"])
            if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in ranges.values()):
                raise ValueError("a range is not finite")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise OptionError(f"-r: {self.path} is no record of ranges: remove it, or give another folder") from None
        return (ranges, count) if told.get("of") == key and seen == set(names) else None

    def write(self, key: Key, names: Iterable[str], ranges: Mapping[str, Range], count: int) -> None:
        """Keep ranges, instead of what was there."""
        told = {
            "of": key, "frames": count, "seen_of": sorted(names),
            "ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()},
        }  # fmt: skip
        part = self.path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OptionError(f"-r {self.folder}: {error.strerror}: give another folder") from None
