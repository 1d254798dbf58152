"""Libraries that talk past us: what they print, also from C++, does not reach the user's terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

_KEPT = False


@contextlib.contextmanager
def nothing_silenced() -> Iterator[None]:
    """Within it `quiet` does nothing: --verbose."""
    global _KEPT
    before, _KEPT = _KEPT, True
    try:
        yield
    finally:
        _KEPT = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout, stderr and Python's warnings, in all threads: for calls that print nothing of ours."""
    if _KEPT:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with open(os.devnull, "w") as sink, warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        for target, original in zip((1, 2), saved, strict=True):
            os.dup2(original, target)
            os.close(original)
