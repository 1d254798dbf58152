"""Arrays in files, read piece by piece: a .npz or .npy file of many gigabytes takes no more memory than one piece."""

from __future__ import annotations

import contextlib
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import one_line

UNREADABLE = (
    OSError, ValueError, EOFError, LookupError, RuntimeError, TypeError, SyntaxError, ArithmeticError, MemoryError,
    tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What numpy and zipfile raise at damaged, encrypted or pickled content; headers are parsed as Python."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file.

    Attributes:
        path: the file.
        member: name in a .npz archive; None: a .npy file.
        shape, dtype: of the array.
        column_major: stored with the first axis fastest.
        where: option and value, for messages.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    column_major: bool
    where: str

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    def pieces(self, length: int) -> Iterator[NDArray]:
        """The array in pieces of so many entries of the first axis, the last one maybe shorter.

        Raises: OptionError: the file is damaged.
        """
        with _said(self.where):
            if self.member is None:
                whole = np.load(self.path, mmap_mode="r", allow_pickle=False)
                for start in range(0, len(self), length):
                    yield np.array(whole[start : start + length] if self.shape else whole)
            elif self.column_major or not self.shape:
                with np.load(self.path, allow_pickle=False) as archive:
                    whole = archive[self.member]
                for start in range(0, len(self), length):
                    yield whole[start : start + length] if self.shape else whole
            else:
                yield from self._streamed(self.member, length)

    def _streamed(self, member: str, length: int) -> Iterator[NDArray]:
        row = prod(self.shape[1:])
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{member}.npy") as file:
            _header(file)
            for start in range(0, len(self), length):
                count = min(length, len(self) - start)
                content = file.read(count * row * self.dtype.itemsize)
                yield np.frombuffer(content, self.dtype, count * row).reshape(count, *self.shape[1:])

    def whole(self) -> NDArray:
        """All of it.

        Raises: OptionError: the file is damaged.
        """
        return next(self.pieces(max(len(self), 1)), np.empty(self.shape, self.dtype))


def open_archive(path: Path, where: str) -> dict[str, ArrayFile]:
    """The arrays of a .npz file by name.

    Raises: OptionError: it is none, or damaged.
    """
    found = {}
    with _said(where):
        if not zipfile.is_zipfile(path):
            raise OptionError(f"{where}: no .npz file, or truncated: write it with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if not member.endswith(".npy"):
                    raise OptionError(f"{where}: {one_line(member)!r} in it is no array: write it with numpy.savez")
                with archive.open(member) as file:
                    name = member.removesuffix(".npy")
                    found[name] = _described(path, name, _header(file), f"{where}: {one_line(name)}")
    if not found:
        raise OptionError(f"{where}: no array in it")
    return found


def open_array(path: Path, where: str) -> ArrayFile:
    """The array of a .npy file.

    Raises: OptionError: it is none, or damaged.
    """
    with _said(where), path.open("rb") as file:
        return _described(path, None, _header(file), where)


def _described(
    path: Path, member: str | None, header: tuple[tuple[int, ...], bool, np.dtype[Any]], where: str
) -> ArrayFile:
    shape, column_major, dtype = header
    if dtype.hasobject:
        raise OptionError(f"{where}: holds Python objects, not numbers")
    if any(size < 0 for size in shape):
        raise OptionError(f"{where}: has shape {list(shape)}: damaged file")
    return ArrayFile(path, member, shape, dtype, column_major, where)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type; the file is left at the first value."""
    version = npy.read_magic(file)
    return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)


@contextlib.contextmanager
def _said(where: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise OptionError(f"{where}: can't be read: {one_line(error) or type(error).__name__}") from None
