"""What passes over data have found, kept in a file for the case that they are interrupted."""

from __future__ import annotations

import io
import json
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drpai_qat.calibration.observers import BINS, Ends
from drpai_qat.calibration.seen import Mark, Seen
from drpai_qat.core.errors import OptionError

_EVERY = 5.0
"""Seconds of work that an interruption may cost."""
_MOST_BYTES = 1 << 30
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, RecursionError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy, zipfile and json raise at a damaged file."""


class Unfinished:
    """The file of one calibration; what it holds of another one is not used."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        """Nothing is read or written yet.

        Args:
            key: what the calibration depends on, as JSON.
        """
        self._path = path
        self._key = key
        self._kept = time.monotonic()

    def read(self, names: tuple[str, ...]) -> Seen | None:
        """What was seen of these tensors before an interruption; None: nothing, or it can't be read."""
        try:
            if self._path.stat().st_size > _MOST_BYTES:
                return None
            with np.load(self._path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                if about["of"] != self._key or about["names"] != list(names):
                    return None
                counts, zeros = file["counts"], file["zeros"]
                ends, frames = file["ends"], file["frames"]
            for array, kind, shape in (
                (counts, np.int64, (len(names), BINS)), (zeros, np.int64, (len(names),)),
                (ends, np.float64, (len(names), 4)), (frames, np.int64, (len(names),)),
            ):  # fmt: skip
                if array.dtype != kind or array.shape != shape:
                    return None
            whole = None if about["whole"] is None else Mark(int(about["whole"][0]), str(about["whole"][1]))
            mark = Mark(int(about["mark"][0]), str(about["mark"][1]))
        except _UNREADABLE:
            return None
        rows = zip(ends.tolist(), frames.tolist(), strict=True)
        seen_ends = [
            Ends(low, high, mean_low, mean_high, count) for (low, high, mean_low, mean_high), count in rows
        ]  # fmt: skip
        return Seen(names, seen_ends, counts, zeros, whole, mark)

    def keep(self, seen: Seen) -> None:
        """Write what was seen, unless that was done a moment ago.

        Raises: OptionError: it can't be written.
        """
        if time.monotonic() - self._kept < _EVERY:
            return
        whole, mark = (None if one is None else [one.frames, one.sha256] for one in (seen.whole, seen.mark))
        about = json.dumps({"of": self._key, "names": seen.names, "whole": whole, "mark": mark})
        ends = [(one.low, one.high, one.mean_low, one.mean_high) for one in seen.ends]
        content = io.BytesIO()
        np.savez(
            content, about=np.array(about), counts=seen.counts, zeros=seen.zeros,
            ends=np.array(ends, np.float64).reshape(-1, 4),
            frames=np.array([one.frames for one in seen.ends], np.int64),
        )  # fmt: skip
        put(self._path, content.getvalue())
        self._kept = time.monotonic()

    def drop(self) -> None:
        """Remove the file: all is found."""
        self._path.unlink(missing_ok=True)


def put(path: Path, content: bytes) -> None:
    """Write a file of -r, under its name once it is whole; the folder is made.

    Raises: OptionError: that is not possible.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"-r {path.parent}: {error.strerror}: give another folder") from None
