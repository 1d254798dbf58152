"""What the page tells, as plain JSON: it lies inside the page too, for the script, and for whoever renders it anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpai_qat.check.certificate import Certificate
from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import OutputFigures, finite
from drpai_qat.core.coverage import INTEGER
from drpai_qat.graph.remedies import Remedy, of_reason, told
from drpai_qat.report.content import Report
from drpai_qat.report.layers import Layer
from drpai_qat.report.page import words
from drpai_qat.report.remedies import remedy
from drpai_qat.report.warnings import warnings

MOST_SAMPLES = 8
"""Rows of the table of samples: the worst ones."""

FEW_SAMPLES = 4
"""The same where all are exact."""

MOST_NAMES = 12
"""Layers that are named for one reason."""


def content_of(report: Report, target: Mapping[str, Any], command: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the page shows but pictures.

    Args:
        target: as deploy.json has it.
        command: that made the folder.
        versions: of this package and those that it used.
    """
    check = report.check
    return {
        "title": report.model["name"],
        "folder": report.output_dir.name,
        "sha256": report.model["sha256"],
        "qat_type": report.model["qat_type"],
        "target": words.target_of(target),
        "counts": words.counting_command(target, report.output_dir.name),
        "estimate": None if (least := report.estimate) is None else least.to_json(),
        "command": command,
        "versions": dict(versions),
        "passed": None if check is None and report.passed else report.passed,
        "too_few_integers": report.too_few_integers,
        "verdict": words.verdict(report),
        "warnings": warnings(report.notes),
        "facts": words.facts(report),
        "shares": _shares(report),
        "check": None if check is None else _check(check, report),
        "float": _float_groups(report),
        "skipped": _skipped(report),
        "layers": _layers(report),
        "used": [] if check is None else _used(check, report.layers),
        "memory": list(report.size.memory.by_step),
        "steps": _steps(report),
        "size": words.sizes(report.size),
        "seconds": {name: round(value, 1) for name, value in report.seconds.items()},
        "random": report.samples is None,
        "timed": "",
        "between": 0.0,
    }


def _shares(report: Report) -> list[dict[str, Any]]:
    """Per way to compute: layers, and share of the multiply-accumulates."""
    total = sum(node.macs for node in report.coverage)
    found = []
    for compute in (*INTEGER, "float32", "tvm", "view"):
        layers = sum(layer.compute == compute for layer in report.layers)
        macs = sum(node.macs for node in report.coverage if node.compute == compute)
        if layers or macs:
            found.append({"compute": compute, "layers": layers, "macs": macs, "share": macs / total if total else 0.0})
    return found


def _check(check: CheckResult, report: Report) -> dict[str, Any]:
    random = report.samples is None
    name = None if report.samples is None else report.samples["name"]
    return {
        "outputs": [
            _figures(one) | {"fold": _figures(fold)} for one, fold in zip(check.outputs, check.fold, strict=True)
        ],
        "heads": words.heads(check),
        "loss": [_figures(one) for one in report.loss],
        "reference": "the source file" if report.calibration is None else "model_int8.onnx",
        "count": check.samples,
        "samples": words.samples(check.samples, random, name),
        "all_exact": all(one.max_error == 0 for one in check.outputs),
        "by_sample": [] if random and all(one.max_error == 0 for one in check.outputs) else _worst(check),
        "layers": words.layer_summary(check),
        "shortfalls": list(check.shortfalls),
        "amplified": check.amplified,
        "uncertified": check.uncertified,
    }


def _figures(one: OutputFigures) -> dict[str, Any]:
    return {
        "name": one.name,
        "error": words.error(one),
        "sqnr": words.decibel(one.sqnr_db, one.max_error == 0),
        "cosine": f"{one.cosine:.6f}",
        "top1": "" if one.top1 is None else str(one.top1),
        "unequal": "" if one.unequal is None else f"{one.unequal} of {one.count}",
    }


def _worst(check: CheckResult) -> list[dict[str, Any]]:
    """The samples with the largest errors, in their order; some of them if there are no errors."""
    least = [min(one.sqnr_db for one in outputs) for outputs in check.by_sample]
    wrong = sorted((i for i, found in enumerate(least) if found < math.inf), key=lambda i: least[i])
    worst = wrong[:MOST_SAMPLES] or range(min(len(least), FEW_SAMPLES))
    return [
        {"sample": i, "outputs": [_figures(one) | {"agrees": _agrees(one)} for one in check.by_sample[i]]}
        for i in sorted(worst)
    ]


def _agrees(one: OutputFigures) -> str:
    """Whether the largest class of a single sample is the reference's."""
    if one.top1 is None or one.top1.total != 1:
        return "" if one.top1 is None else str(one.top1)
    return "same" if one.top1.equal else "tie" if one.top1.ties else "another"


_REASONS = {"result": "its result has no trained range", "edge": "the network's input", "kernel": "no integer kernel"}
"""Of layers whose backend gave none."""


@dataclass
class _Group:
    """Layers with one reason and one remedy."""

    reason: str
    remedy: Remedy
    layers: list[int]
    macs: int = 0


def _float_groups(report: Report) -> list[dict[str, Any]]:
    """What is not in integers, by reason, the most products first."""
    layers, qat_type = report.layers, str(report.model["qat_type"])
    groups: dict[tuple[str, str], _Group] = {}
    for i, layer in enumerate(layers):
        if layer.integer:
            continue
        found = remedy(layer, layers)
        group = groups.setdefault((layer.reason, found.key), _Group(layer.reason, found, []))
        group.layers.append(i)
        group.macs += layer.macs
    total = sum(layer.macs for layer in layers) or 1
    ordered = sorted(groups.values(), key=lambda group: (-group.macs, -len(group.layers)))
    return [
        {
            "reason": told(group.reason or _REASONS.get(group.remedy.key, "its input has no trained range"), qat_type),
            "why": group.remedy.because(qat_type),
            "what": group.remedy.what(qat_type),
            "code": group.remedy.code if qat_type == "pytorch" else "",
            "layers": group.layers[:MOST_NAMES],
            "count": len(group.layers),
            "share": group.macs / total,
            "macs": group.macs,
        }
        for group in ordered
    ]


def _skipped(report: Report) -> list[dict[str, Any]]:
    """What preprocess left as it was, by reason."""
    qat_type = str(report.model["qat_type"])
    found: dict[str, list[str]] = {}
    for note in report.notes:
        if note.action == "skipped":
            found.setdefault(note.reason, []).append(note.node)
    return [
        {"reason": reason, "nodes": nodes[:MOST_NAMES], "count": len(nodes), "why": of_reason(reason).because(qat_type),
         "what": of_reason(reason).what(qat_type)}
        for reason, nodes in found.items()
    ]  # fmt: skip


def _layers(report: Report) -> list[dict[str, Any]]:
    single: dict[str, Certificate] = {}
    total: dict[str, dict[str, Any]] = {}
    if report.check is not None:
        single = {one.tensor: one for one in report.check.layers or ()}
        total = {one.tensor: one.to_json() for one in report.check.accumulated}
    rows = []
    for layer in report.layers:
        row = layer.to_json()
        row["kernel"] = list(layer.kernel)
        row["nodes"] = list(layer.nodes[1:])
        own = [single[name] for name in layer.tensors if name in single]
        row["single"] = _single(own) if own else None
        last = next((total[name] for name in reversed(layer.tensors) if name in total), None)
        row["accumulated"] = None if last is None else {**last, "exact": not last["unequal"]}
        del row["tensors"]
        if layer.covers == (layer.name,):
            del row["covers"]
        rows.append(row)
    return rows


def _steps(report: Report) -> list[int]:
    """The layer of each kernel of a run, -1 for none; empty where the kernels are not known."""
    if len(report.kernels) != len(report.size.memory.by_step):
        return []
    owners = {name: i for i, layer in enumerate(report.layers) for name in layer.covers}
    return [owners.get(one.node, -1) for one in report.kernels]


def _single(own: Sequence[Certificate]) -> dict[str, Any]:
    worst = max(own, key=lambda one: (not one.certified, one.wrong, one.unequal))
    return {
        "verdict": worst.verdict,
        "certified": all(one.certified for one in own),
        "unequal": sum(one.unequal for one in own),
        "count": sum(one.count for one in own),
        "max_lsb": finite(max(one.max_lsb for one in own)),
    }


def _used(check: CheckResult, layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Activation ranges: those of results, and of others that stand out."""
    owners = {name: (i, name == layer.tensors[-1]) for i, layer in enumerate(layers) for name in layer.tensors}
    found = []
    for one in check.used:
        layer, last = owners.get(one.tensor, (-1, True))
        remark = words.use_of(one)
        if last or remark:
            found.append({**one.to_json(), "layer": layer, "remark": remark})
    return found
