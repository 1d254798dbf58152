"""onnx's shape inference within bounds: following the values of shapes, it can take more memory than there is."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this room is copied to boards, which have no ONNX
    import onnx

_HEADROOM = 1 << 30
"""Bytes: some seven million values in tensors of one dimension."""
_COPIES = 6  # of the model, that inference makes on its way, at most
_limiting = threading.Lock()
"""The limit is the process's: of two threads, the second would take the first one's for that of before."""


def inferred(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """A copy with the shapes that follow from those of the inputs, and from shapes that are computed.

    For each operator that may compute shapes, inference takes 140 bytes for each element of a tensor of one dimension.
    Where that is more than a network needs, shapes that are computed stay open, until folding makes them constants.

    Args:
        strict: operators that don't accept their inputs are errors.
    Raises: onnx.shape_inference.InferenceError, ValueError, RuntimeError: shapes or types contradict each other.
    """
    from onnx.shape_inference import infer_shapes

    try:
        with _limiting, _headroom(_HEADROOM + _COPIES * model.ByteSize()):
            return infer_shapes(model, data_prop=True, strict_mode=strict)
    except MemoryError:
        return infer_shapes(model, strict_mode=strict)


@contextlib.contextmanager
def _headroom(size: int) -> Iterator[None]:
    """Let the process take no more than so many bytes beyond what it has."""
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # not Linux
        yield
        return
    bound = mapped + size
    if before != resource.RLIM_INFINITY:
        bound = min(bound, before)
    resource.setrlimit(resource.RLIMIT_AS, (bound, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))
