"""Warnings of a compilation: files that are likely not what their user takes them for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from drpai_qat.core.errors import ModelError

if TYPE_CHECKING:  # graphsurgeon is not needed to read a report
    from preprocess import Note


def warnings(notes: Iterable[Note]) -> list[str]:
    """One line for each warning among the notes."""
    found = (note for note in notes if note.action == "warning")
    return [note.reason if note.node == "model" else f"{note.node}: {note.reason}" for note in found]


def refuse_warnings(notes: Iterable[Note]) -> None:
    """Make the first warning an error, as --strict asks.

    Raises: ModelError: there is one.
    """
    for text in warnings(notes):
        raise ModelError(f"{text} (--strict)")
