"""The short form of a report, for people: facts, outputs, the layers that differ most."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import OutputFigures
from drpai_qat.core.text import listed, one_line, seconds, shortened
from drpai_qat.graph.remedies import told
from drpai_qat.report.calibrated import calibrated, fitted, kept_within, left_out
from drpai_qat.report.content import Report
from drpai_qat.report.size import Size
from drpai_qat.report.warnings import warnings

_MOST_LAYERS = 8
_OUTPUT_NAME, _LAYER_NAME = 32, 18
"""Longest names in the two tables, so that they fit 80 columns."""


def show(report: Report, console: Console, *, notes: bool = False) -> None:
    """Print a report; with `notes` also what preprocess folded, line by line."""
    if notes:
        for note in report.notes:
            console.print(Text(one_line(f"{note.action} {note.node}: {note.reason}")), soft_wrap=True)
    console.print(Group(*_parts(report)))


def _parts(report: Report) -> Iterable[RenderableType]:
    yield _facts(report)
    for text in warnings(report.notes):
        yield Text(one_line(f"warning: {text}", 1000), style="yellow")
    if report.too_few_integers:
        yield Text(f"check failed: {report.too_few_integers}", style="bold red")
    if report.check is not None:
        yield Text()
        yield _outputs_table(report.check)
        yield from _legend(report.check)
        if report.check.layers is not None:
            yield Text()
            yield from _layers(report.check)
        for text in report.check.shortfalls:
            yield Text(f"{'missed' if report.check.passed else 'check failed'}: {text}", style="bold red")
        if report.check.amplified:
            yield Text(report.check.amplified, style="yellow")
        if report.check.uncertified:
            yield Text(report.check.uncertified, style="red")


def _facts(report: Report) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    rows = {
        "model": f"{report.model['name']} ({_kind(report)})",
        "quantized": f"{report.weights} weights, {report.activations} activations",
        "calibrated": calibrated(report.calibration),
        "left out": left_out(report.calibration),
        "ptq best": fitted(report.calibration),
        "max drop": kept_within(report.calibration),
        "against source": "; ".join(_loss(one) for one in report.loss),
        "integer MACs": f"{report.int8_mac_fraction:.1%}{_int16_share(report)}",
        "float nodes": "; ".join(_float_nodes(report)) or "none",
        "to change": "report.html says what to change in training" if _trained(report) and _float_nodes(report) else "",
        "skipped": "; ".join(_grouped((note.reason, note.node) for note in report.notes if note.action == "skipped")),
        "target": f"{report.target}: {report.runs_on}",
        "size": _size(report.size),
        "time": f"{seconds(sum(report.seconds.values()))} ({_slowest(report)})",
        "check": _verdict(report),
        "output": str(report.output_dir),
        "next": report.next_command.replace("OUT", shlex.quote(str(report.output_dir))),
    }
    for key, value in rows.items():
        if value:
            facts.add_row(key, Text(one_line(value, 1000)))
    return facts


def _trained(report: Report) -> bool:
    return report.model["qat_type"] != "float"


def _kind(report: Report) -> str:
    qat_type = report.model["qat_type"]
    return "float, quantized after training" if qat_type == "float" else f"{qat_type} QAT"


def _loss(figures: OutputFigures) -> str:
    top1 = f", top-1 {figures.top1}" if figures.top1 else ""
    return f"{figures.name} {_decibel(figures)}{top1}"


def _size(size: Size) -> str:
    if size.file:
        return f"{size.file} {_megabytes(size.library)}"
    share = f" ({size.params / size.weights:.2f} bytes per weight)" if size.weights else ""
    work, least = _megabytes(size.memory.workspace), _megabytes(size.memory.live)
    return (
        f"code {_megabytes(size.library)}, parameters {_megabytes(size.params)}{share}; "
        f"a run takes {work} for activations, of which at most {least} hold data at any one time"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _int16_share(report: Report) -> str:
    total = sum(node.macs for node in report.coverage)
    wide = sum(node.macs for node in report.coverage if node.compute == "int16")
    return f" ({wide / total:.1%} with int16 activations)" if wide else ""


def _float_nodes(report: Report) -> list[str]:
    nodes = (node for node in report.coverage if node.compute in ("float32", "tvm"))
    return _grouped((told(node.reason, report.model["qat_type"]) or node.compute, node.op) for node in nodes)


def _slowest(report: Report) -> str:
    name, value = max(report.seconds.items(), key=lambda item: item[1], default=("", 0.0))
    return f"{name} {seconds(value)}"


def _verdict(report: Report) -> str:
    if report.check is None:
        return "not checked"
    runs = f"{report.check.samples} sample{'s' if report.check.samples > 1 else ''}"
    if report.samples is not None and report.samples["name"]:
        runs += f" of {report.samples['name']}"
    verdict = "passed" if report.check.passed else "FAILED"
    reference = "onnxruntime" if report.calibration is None else "model_int8.onnx in onnxruntime"
    return f"{verdict} against {reference}, optimisations off, {runs}"


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
    for column in ("output", "max error", "SQNR", "cosine", "top-1"):
        table.add_column(column, justify="left" if column == "output" else "right", overflow="fold")
    for found in check.outputs:
        table.add_row(
            _name(found.name, _OUTPUT_NAME), _lsb(found), _decibel(found), f"{found.cosine:.6f}",
            str(found.top1) if found.top1 else "-",
        )  # fmt: skip
    return table


def _legend(check: CheckResult) -> Iterable[RenderableType]:
    """What the table's units are, where it is not plain, and the same comparison of model_int8.onnx."""
    untrained = any(one.max_error and not one.lsb_trained for one in check.outputs)
    if untrained:
        yield Text("LSB*: the output has no trained grid; a step is a 127th of its largest value", style="dim")
    if any(one.max_error for one in check.fold):
        told = ", ".join(f"{shortened(one_line(one.name), _OUTPUT_NAME)} {_decibel(one)}" for one in check.fold[:4])
        yield Text(f"the fold alone (model_int8.onnx in onnxruntime): {told}", style="dim")


def _name(text: str, longest: int) -> Text:
    return Text(shortened(one_line(text), longest))


def _lsb(figures: OutputFigures) -> str:
    if figures.max_error == 0:
        return "exact"
    return f"{figures.max_error_lsb:.2f} LSB" + ("" if figures.lsb_trained else "*")


def _decibel(figures: OutputFigures) -> str:
    return (
        "exact" if figures.max_error == 0 else f"{figures.sqnr_db:.1f} dB" if math.isfinite(figures.sqnr_db) else "none"
    )


def _layers(check: CheckResult) -> Sequence[RenderableType]:
    """How many tensors are certified, and those that differ, the worst first."""
    layers, folding = check.layers or (), check.folding or ()
    ties = [one for one in layers if one.certified and one.unequal]
    wrong = [one for one in layers if one.wrong]
    missing = [one for one in layers if one.missing]
    parts = [f"{len(layers)} tensors against exact arithmetic: {len(layers) - len({*ties, *wrong, *missing})} equal"]
    if ties:
        largest = max(one.distance for one in ties)
        parts.append(f"{len(ties)} with ties only ({sum(one.unequal for one in ties)}, within {largest:.1g} LSB)")
    if wrong:
        parts.append(f"{len(wrong)} wrong")
    if missing:
        parts.append(f"{len(missing)} not evaluated")
    reference = sum(one.reference_unequal for one in layers)
    certified = sum(one.certified for one in folding)
    also = f"onnxruntime's own float32 differs in {reference} integers; fold: {certified} of {len(folding)} certified"
    summary = [Text(", ".join(parts)), Text(also)]
    shown = sorted((*ties, *wrong, *missing), key=lambda one: (one.certified, -one.distance))[:_MOST_LAYERS]
    if not shown:
        return summary
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tensor", "made by", "verdict", "distance", "max"):
        table.add_column(column, justify="left" if column in ("tensor", "made by") else "right", overflow="fold")
    for one in shown:
        table.add_row(
            _name(one.tensor, _LAYER_NAME), _name(one.node, _LAYER_NAME), f"{one.verdict} of {one.count}",
            f"{one.distance:.2g} LSB", f"{one.max_lsb:.3g} LSB",
        )  # fmt: skip
    return [*summary, table]
