"""Reads deploy.params, which is in TVM's format, without TVM and without trusting a number in it.

Little-endian throughout:

    uint64 magic, uint64 0, uint64 count, then each name: uint64 length, bytes
    uint64 count, then each tensor: uint64 magic, uint64 0, int32 device, int32 number, int32 rank,
        uint8 kind, uint8 bits, uint16 lanes, int64 per dimension, int64 bytes, values
"""

from __future__ import annotations

import io
import math
import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError

ALIGNMENT = 64
"""Bytes: what compiled code may assume of every tensor's address."""

_LIST, _TENSOR = 0xF7E58D4F05049CB7, 0xDD5E40F096B4A13F
_TYPES = {
    (0, 8): "int8", (0, 16): "int16", (0, 32): "int32", (0, 64): "int64",
    (1, 8): "uint8", (1, 16): "uint16", (1, 32): "uint32", (1, 64): "uint64",
    (2, 16): "float16", (2, 32): "float32", (2, 64): "float64", (6, 8): "bool",
}  # fmt: skip
_MOST_DIMS = 32  # numpy's own limit was 32 before its version 2
_MOST_OF_NOTHING = 1 << 32  # numpy multiplies all dimensions but those of 0


def read_parameters(file: io.BufferedReader, path: Path) -> dict[str, NDArray]:
    """Read the tensors.

    Args:
        file: deploy.params, open at its beginning.
        path: its name, for messages.
    Returns: by name; their memory is aligned.
    Raises: DeploymentError: it is not such a file, or ends early; nothing larger than the file was allocated.
    """
    try:
        reader = _Reader(file)
        reader.expect("<QQ", (_LIST, 0), "head")
        (count,) = reader.read("<Q")
        names = [reader.text() for _ in range(reader.count(count, 8))]
        reader.expect("<Q", (count,), "number of tensors")
        tensors = [reader.tensor() for _ in range(count)]
        if reader.left:
            raise _DamageError(f"{reader.left} bytes too many")
        if len(set(names)) != count:
            raise _DamageError("a name twice")
    except (_DamageError, OSError) as error:
        raise DeploymentError(f"{path} is damaged ({error}): compile or copy it again") from None
    return dict(zip(names, tensors, strict=True))


def aligned(shape: tuple[int, ...], dtype: str) -> NDArray:
    """Zeros at an address that is a multiple of ALIGNMENT, as numpy's own need not be."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)


class _DamageError(ValueError):
    """What is wrong with the file."""


class _Reader:
    """Reads forward and knows how much is left."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size

    def read(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def expect(self, layout: str, wanted: tuple[int, ...], what: str) -> None:
        if self.read(layout) != wanted:
            raise _DamageError(f"another {what}")

    def count(self, claimed: int, each: int) -> int:
        """A number of things of at least `each` bytes: no more than what is left can hold."""
        if not 0 <= claimed * each <= self.left:
            raise _DamageError("ends early")
        return claimed

    def text(self) -> str:
        (length,) = self.read("<Q")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError:
            raise _DamageError("a name that is no text") from None

    def tensor(self) -> NDArray:
        self.expect("<QQ", (_TENSOR, 0), "head of a tensor")
        _device, _number, rank = self.read("<iii")
        kind, bits, lanes = self.read("<BBH")
        dtype = _TYPES.get((kind, bits))
        if dtype is None or lanes != 1:
            raise _DamageError(f"a tensor of type {kind}, {bits} bits, {lanes} lanes")
        if not 0 <= rank <= _MOST_DIMS:
            raise _DamageError(f"a tensor of {rank} dimensions")
        shape = self.read(f"<{rank}q")
        (size,) = self.read("<q")
        if min(shape, default=0) < 0 or math.prod(shape) * (bits // 8) != size:
            raise _DamageError("a tensor whose shape and size differ")
        self.count(size, 1)
        if not size and math.prod(max(dim, 1) for dim in shape) > _MOST_OF_NOTHING:
            raise _DamageError("a tensor without elements, of too large a shape")
        array = aligned(shape, dtype)
        if self._file.readinto(array.reshape(-1).view(np.uint8).data) != size:
            raise _DamageError("ends early")
        self.left -= size
        return array

    def _bytes(self, size: int) -> bytes:
        content = self._file.read(self.count(size, 1))
        if len(content) != size:
            raise _DamageError("ends early")
        self.left -= size
        return content
