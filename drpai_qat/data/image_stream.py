"""The images of a folder, prepared, one after the other: several are decoded at a time, and the first ones only once.

A photo of a camera takes longer to decode than a frame takes to run, and calibration reads its data several times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from numpy.typing import NDArray

from drpai_qat.core.workers import Tell, Threads
from drpai_qat.data.image_files import Skipped, UnreadableImageError, load_pixels

_READERS = 4
_KEPT = 128 << 20  # bytes of prepared images, for the next pass


class PreparedImages:
    """Prepared images, in the order of their files; iterating again starts anew."""

    def __init__(self, files: Sequence[Path], folder: Path, prepare: Callable[[NDArray], NDArray]) -> None:
        """Nothing is read yet.

        Args:
            folder: that the names of damaged files are told below.
            prepare: makes pixels the network's input.
        """
        self._files = files
        self._folder = folder
        self._prepare = prepare
        self._kept: dict[Path, NDArray | Skipped] = {}
        self._room = _KEPT

    def __iter__(self) -> Iterator[NDArray | Skipped]:
        """Each image, or why there is none."""
        with Threads(self._read, min(_READERS, len(os.sched_getaffinity(0)))) as readers:
            found = readers.results(self._files, lambda _: None)
            for path, one in zip(self._files, found, strict=True):
                size = 0 if isinstance(one, Skipped) else one.nbytes
                if path not in self._kept and size <= self._room:
                    self._kept[path] = one
                    self._room -= size
                yield one

    def _read(self, path: Path, _: Tell) -> NDArray | Skipped:
        if path in self._kept:
            return self._kept[path]
        try:
            return self._prepare(load_pixels(path))
        except UnreadableImageError as error:
            name = path.name if path == self._folder else str(path.relative_to(self._folder))
            return Skipped(name, str(error))
