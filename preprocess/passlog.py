"""Passes, and the log they write: every fake-quant of the source ends up in the graph or in this log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from drpai_qat.core.memory_limit import MemoryLimit

Action: TypeAlias = Literal["folded", "skipped", "note", "warning"]


@dataclass(frozen=True)
class Note:
    """One line of the log.

    Attributes:
        action: "folded": absorbed without changing any result; "skipped": left as it was; "note": information;
            "warning": the file is likely not what its user takes it for.
        pass_name: the pass that wrote it.
        node: name of the node, or of its first output if it has none.
        reason: a few words.
    """

    action: Action
    pass_name: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.action} {self.node}: {self.reason}"


@dataclass
class PassLog:
    """Collects the notes of one run.

    Attributes:
        running: name of the pass at work.
        memory: that passes may take.
        has_data: calibration will give ranges to what is quantized dynamically, which is refused else.
        dynamic: names of the nodes that were.
    """

    notes: list[Note] = field(default_factory=list)
    running: str = ""
    memory: MemoryLimit = field(default_factory=MemoryLimit.of_machine)
    has_data: bool = False
    dynamic: list[str] = field(default_factory=list)

    def folded(self, node: gs.Node, reason: str) -> None:
        """Note that `node` was absorbed."""
        self.notes.append(Note("folded", self.running, label(node), reason))

    def skipped(self, node: gs.Node, reason: str) -> None:
        """Note that a pass refused `node`, and why."""
        self.notes.append(Note("skipped", self.running, label(node), reason))

    def note(self, where: str, text: str) -> None:
        """Note something about the model that its user should know."""
        self.notes.append(Note("note", self.running, where, text))

    def warn(self, where: str, text: str) -> None:
        """Note that the file is likely not what its user takes it for."""
        self.notes.append(Note("warning", self.running, where, text))


Pass: TypeAlias = Callable[[gs.Graph, PassLog], gs.Graph]
"""A pass rewrites the graph in place where it can and returns it. Order matters: the lists say why."""


def label(node: gs.Node) -> str:
    """Name of a node for messages: its own, else that of its first output."""
    return node.name or (node.outputs[0].name if node.outputs else node.op)


def run(passes: tuple[Pass, ...], graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Apply `passes` in order; graphsurgeon's own messages are not for the user."""
    with G_LOGGER.suppress():
        for one in passes:
            log.running = one.__name__
            graph = one(graph, log)
    return graph
