"""Which function writes which operator."""

from __future__ import annotations

from collections.abc import Callable

from drpai_qat.backends.tflite.context import Context
from drpai_qat.graph.canonical import Node

Writer = Callable[[Context, Node, bool], None]
"""Writes a node, in float32 if the last argument says so. Raises RefusedError where TFLite can't express it."""

WRITERS: dict[str, Writer] = {}


def writes(*ops: str) -> Callable[[Writer], Writer]:
    """Register the writer of operators; a second registration of one is an error."""

    def register(writer: Writer) -> Writer:
        for op in ops:
            if op in WRITERS:
                raise ValueError(f"{op} has a writer already")
            WRITERS[op] = writer
        return writer

    return register
