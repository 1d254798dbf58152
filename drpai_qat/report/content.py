"""What a compilation tells: report.json for tools, a short table for people."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import OutputFigures
from drpai_qat.core.text import listed, one_line, seconds
from drpai_qat.report.size import Size

FILE = "report.json"
INTEGER = ("int8", "int16")
_MOST_LAYERS = 8


@dataclass(frozen=True)
class NodeCoverage:
    """Where one node of the canonical model computes.

    Attributes:
        node, op: its name and ONNX operator.
        compute: "int8", "int16", "float32", "tvm" (TVM's own float kernels) or "view" (no work).
        macs: multiply-accumulates a frame.
        reason: why it is not in integers; "" if it is.
    """

    node: str
    op: str
    compute: str
    macs: int
    reason: str


@dataclass(frozen=True)
class FoldNote:
    """A line of preprocess's log: what was folded, or skipped and why."""

    action: str
    where: str
    reason: str


@dataclass(frozen=True)
class Report:
    """One compilation.

    Attributes:
        model: file name, sha256, qat_type.
        output_dir: the folder that was written.
        target: name of the target.
        weights, activations: quantized tensors of the canonical model.
        notes: preprocess's log.
        coverage: where each node computes.
        int8_mac_fraction: share of multiply-accumulates in integers, 0..1.
        size: files and memory.
        check: None if --check none.
        seconds: by stage.
    """

    model: Mapping[str, Any]
    output_dir: Path
    target: str
    weights: int
    activations: int
    notes: tuple[FoldNote, ...]
    coverage: tuple[NodeCoverage, ...]
    int8_mac_fraction: float
    size: Size
    check: CheckResult | None
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """False if the check fell short."""
        return self.check is None or self.check.passed

    def to_json(self) -> dict[str, Any]:
        """The content of report.json; it names no folder of this machine."""
        return {
            "model": dict(self.model),
            "target": self.target,
            "quantized": {"weights": self.weights, "activations": self.activations},
            "int8_mac_fraction": self.int8_mac_fraction,
            "size": self.size.to_json(),
            "check": None if self.check is None else self.check.to_json(),
            "coverage": [vars(one) for one in self.coverage],
            "notes": [vars(one) for one in self.notes],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def write(self, folder: Path) -> None:
        """Write report.json."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def print(self, console: Console, *, notes: bool = False) -> None:
        """Print the short form; with `notes` also what preprocess folded, line by line."""
        if notes:
            for note in self.notes:
                console.print(Text(one_line(f"{note.action} {note.where}: {note.reason}")), soft_wrap=True)
        console.print(Group(*self._parts()))

    def _parts(self) -> Iterable[RenderableType]:
        yield self._facts()
        if self.check is not None:
            yield Text()
            yield _outputs_table(self.check)
            if self.check.layers is not None:
                yield Text()
                yield from _layers(self.check)
            for text in self.check.shortfalls:
                yield Text(f"check failed: {text}", style="bold red")
            for text in self.check.excused:
                yield Text(f"excused: {text}", style="yellow")
            if self.check.divergence:
                yield Text(self.check.divergence, style="red")

    def _facts(self) -> Table:
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        rows = {
            "model": f"{self.model['name']} ({self.model['qat_type']} QAT)",
            "quantized": f"{self.weights} weights, {self.activations} activations",
            "integer MACs": f"{self.int8_mac_fraction:.1%}{self._int16_share()}",
            "float nodes": "; ".join(self._float_nodes()) or "none",
            "skipped": "; ".join(
                _grouped((note.reason, note.where) for note in self.notes if note.action == "skipped")
            ),
            "target": self.target,
            "size": str(self.size),
            "time": f"{seconds(sum(self.seconds.values()))} ({self._slowest()})",
            "check": self._verdict(),
            "output": str(self.output_dir),
        }
        for key, value in rows.items():
            if value:
                facts.add_row(key, Text(one_line(value, 1000)))
        return facts

    def _int16_share(self) -> str:
        total = sum(node.macs for node in self.coverage)
        wide = sum(node.macs for node in self.coverage if node.compute == "int16")
        return f" ({wide / total:.1%} with int16 activations)" if wide else ""

    def _float_nodes(self) -> list[str]:
        nodes = (node for node in self.coverage if node.compute in ("float32", "tvm"))
        return _grouped((node.reason or node.compute, node.op) for node in nodes)

    def _slowest(self) -> str:
        name, value = max(self.seconds.items(), key=lambda item: item[1], default=("", 0.0))
        return f"{name} {seconds(value)}"

    def _verdict(self) -> str:
        if self.check is None:
            return "not checked"
        runs = f"{self.check.samples} sample{'s' if self.check.samples > 1 else ''}"
        verdict = "passed" if self.check.passed else "FAILED"
        return f"{verdict} against onnxruntime, optimisations off, {runs}"


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """("why", "what") pairs as "3 Softmax, 2 Add: why", most frequent first."""
    by_reason: dict[str, Counter[str]] = {}
    for reason, what in pairs:
        by_reason.setdefault(reason, Counter())[what] += 1
    ordered = sorted(by_reason.items(), key=lambda item: -item[1].total())
    return [
        f"{listed([f'{count} {what}' if count > 1 else what for what, count in counts.most_common()])}: {reason}"
        for reason, counts in ordered
    ]


def _outputs_table(check: CheckResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("output", "max error", "SQNR", "cosine", "top-1", "fold alone"):
        table.add_column(column, justify="left" if column == "output" else "right", overflow="fold")
    for found, fold in zip(check.outputs, check.fold, strict=True):
        table.add_row(
            Text(one_line(found.name)), _lsb(found), _decibel(found), f"{found.cosine:.6f}",
            str(found.top1) if found.top1 else "-", _decibel(fold),
        )  # fmt: skip
    return table


def _lsb(figures: OutputFigures) -> str:
    if figures.max_error == 0:
        return "exact"
    return f"{figures.max_error_lsb:.2f} LSB" + ("" if figures.lsb_trained else " of max|y|/127")


def _decibel(figures: OutputFigures) -> str:
    return (
        "exact" if figures.max_error == 0 else f"{figures.sqnr_db:.1f} dB" if math.isfinite(figures.sqnr_db) else "none"
    )


def _layers(check: CheckResult) -> Sequence[RenderableType]:
    """The layers that differ most, and a line on the others."""
    layers = check.layers or ()
    differing = sorted((one for one in layers if one.equal < 1), key=lambda one: (-one.max_lsb, one.equal))
    exact = len(layers) - len(differing)
    summary = Text(f"{len(layers)} quantized tensors, {exact} equal to the last bit when fed the reference's integers")
    if not differing:
        return [summary]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tensor", "made by", "equal", "max"):
        table.add_column(column, justify="left" if column in ("tensor", "made by") else "right", overflow="fold")
    for one in differing[:_MOST_LAYERS]:
        table.add_row(Text(one_line(one.tensor)), Text(one_line(one.node)), f"{one.equal:.3%}", f"{one.max_lsb} LSB")
    return [summary, table]
