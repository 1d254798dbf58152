"""The page's sentences and figures, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drpai_qat.check.fidelity import CheckResult
from drpai_qat.check.figures import OutputFigures
from drpai_qat.check.used_ranges import UsedRange
from drpai_qat.report.calibrated import calibrated, fitted, kept_within, left_out
from drpai_qat.report.content import Report
from drpai_qat.report.size import CodeUse, Size

CLIPPED = 0.01
"""Share of values at an end of a range from which on it is told."""

UNUSED = 0.25
"""A range of which the samples use less than this is told."""


FEW_VALUES = 1000
"""Of fewer, single ones make shares that mean nothing."""

_FLOAT32_DB = 110
"""From there on an output without a grid differs by float32's own rounding: its 24 bits are 144 dB."""


def si(value: float, unit: str = "") -> str:
    """A number with a prefix: 118 M, 37.6 k."""
    for power, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def size(count: float) -> str:
    """Bytes, in powers of ten as everywhere in this project."""
    return si(count, "B")


def percent(share: float) -> str:
    """With the digits that a share near all or nothing needs."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{share:.1%}" if 0.001 <= share <= 0.999 else f"{share:.3%}"


def real(value: float) -> str:
    """A scale, or an end of a range."""
    return f"{value:.3g}"


def milliseconds(value: float) -> str:
    """Of a layer."""
    return f"{value:.3g} ms" if value >= 0.1 else f"{1000 * value:.3g} µs"


def shape(dims: Sequence[int]) -> str:
    """As 1×64×56×56."""
    return "×".join(map(str, dims)) or "–"


def operator(name: str) -> str:
    """ONNX's name of an operator, shorter where it is long."""
    return name.replace("Normalization", "Norm")


def decibel(value: float, exact: bool) -> str:
    """An SQNR: "42.0 dB", "exact"."""
    if exact or value == math.inf:
        return "exact"
    return f"{value:.1f} dB" if math.isfinite(value) else "none"


def error(figures: OutputFigures) -> str:
    """The largest error of an output, in steps."""
    if figures.max_error == 0:
        return "exact"
    return f"{_steps(figures.max_error_lsb)} LSB" + ("" if figures.lsb_trained else "*")


def _steps(count: float) -> str:
    return f"{count:.2f}" if count >= 0.01 else f"{count:.1g}"


def samples(count: int, random: bool, name: str | None) -> str:
    """Which samples were run."""
    many = f"{count} sample{'' if count == 1 else 's'}"
    if random:
        return f"{count} random input{'' if count == 1 else 's'}"
    return f"{many} of {name}" if name else many


def verdict(report: Report) -> str:
    """The whole report in a sentence."""
    share = f"{percent(report.int8_mac_fraction)} of the multiply-accumulates run in integers"
    check = report.check
    if report.too_few_integers and (check is None or check.passed):
        return (
            f"Too little runs in integers: {report.too_few_integers.partition(':')[0]}. Compiled for {report.target}."
        )
    if check is None:
        return f"Compiled for {report.target}; {share}. Nothing was checked (--check none)."
    name = None if report.samples is None else report.samples["name"]
    ran = samples(check.samples, report.samples is None, name)
    if not check.passed:
        return f"The check fell short on {ran}: {check.shortfalls[0]}. Compiled for {report.target}; {share}."
    if check.amplified:
        return (
            f"Every layer computes what was trained, yet the outputs differ on {ran}: the trained network itself "
            f"amplifies single roundings. Compiled for {report.target}; {share}."
        )
    meant = "the trained network" if report.calibration is None else "the quantized model"
    if all(one.max_error == 0 for one in check.outputs):
        told = f"equals {meant} bit for bit on {ran}"
    else:
        worst = min((one for one in check.outputs if one.max_error), key=lambda one: one.sqnr_db)
        small = worst.sqnr_db >= _FLOAT32_DB and not worst.lsb_trained
        error = "the last bits of float32 apart" if small else f"{_plain(worst)} at most"
        told = f"computes what {meant} does: {decibel(worst.sqnr_db, False)} SQNR, {error} on {ran}"
    lost = ""
    if report.loss:
        least = min(report.loss, key=lambda one: one.sqnr_db)
        lost = f" Quantizing left {decibel(least.sqnr_db, least.max_error == 0)} SQNR of the source file's output."
    return f"The network {told}.{lost} Compiled for {report.target}; {share}."


def _plain(figures: OutputFigures) -> str:
    unit = "LSB" if figures.lsb_trained else "of a 127th of the largest value"
    return f"an error of {_steps(figures.max_error_lsb)} {unit}"


def facts(report: Report) -> list[tuple[str, str]]:
    """What stands under the verdict."""
    total = sum(layer.macs for layer in report.layers)
    kind = str(report.model["qat_type"])
    how = "float model, quantized after training" if kind == "float" else f"{kind} QAT"
    rows = [("Quantized", f"{report.weights} weights, {report.activations} activations ({how})")]
    told = report.calibration
    for name, text in (
        ("Calibrated", calibrated(told)), ("Left out", left_out(told)), ("PTQ best", fitted(told)),
        ("Max drop", kept_within(told)),
    ):  # fmt: skip
        if text:
            rows.append((name, text))
    return [
        *rows,
        ("Layers", f"{len(report.layers)}, {si(total)}MAC" if total else str(len(report.layers))),
        ("Compile time", f"{sum(report.seconds.values()):.0f} s"),
    ]


def heads(check: CheckResult) -> list[tuple[str, str, str]]:
    """Small parts of outputs: which, how much smaller than the whole, and their own SQNR."""
    return [
        (f"{one.output}, channels {one.first} to {one.last}", f"{one.times:.3g}", decibel(one.sqnr_db, False))
        for one in check.heads
    ]


def layer_summary(check: CheckResult) -> str:
    """What the comparison layer by layer found; "" if there was none."""
    layers, folding = check.layers, check.folding
    if layers is None or folding is None:
        return ""
    wrong = sum(not one.certified for one in layers)
    ties = sum(one.unequal for one in layers if one.certified)
    told = "all certified" if not wrong else f"{wrong} not certified"
    return (
        f"{len(layers)} tensors against exact arithmetic: {told}, {ties} tie{'' if ties == 1 else 's'} "
        f"(onnxruntime's own float32: {sum(one.reference_unequal for one in layers)}). "
        f"Fold: {sum(one.certified for one in folding)} of {len(folding)} certified."
    )


def use_of(one: UsedRange) -> str:
    """What stands out about a range; "" if nothing does, or too few values were seen to tell."""
    if sum(one.histogram) < FEW_VALUES:
        return ""
    told = []
    share = (one.greatest - one.least + 1) / (one.qmax - one.qmin + 1)
    if share < UNUSED:
        told.append(f"{percent(share)} of the range used")
    if one.at_most >= CLIPPED:
        told.append(f"{percent(one.at_most)} at the upper end")
    if one.at_least >= CLIPPED and not _zero_is_least(one):
        told.append(f"{percent(one.at_least)} at the lower end")
    return ", ".join(told)


def _zero_is_least(one: UsedRange) -> bool:
    """A range that begins at zero, as ReLU's does, holds many zeros."""
    return one.zero_point == one.qmin


def sizes(taken: Size) -> list[tuple[str, str, str]]:
    """Rows of the table of sizes: what, how much, and what it means."""
    if taken.file:
        return [(taken.file, size(taken.library), "code and parameters; what a run takes is up to its interpreter")]
    rows = [
        ("deploy.so", size(taken.library), _code(taken.code)),
        ("deploy.params", size(taken.params), "weights, scales and tables"),
    ]
    if taken.weights:
        rows.append(("", f"{taken.params / taken.weights:.2f} B", "of parameters for each weight"))
    if taken.memory.workspace:
        live = size(taken.memory.live)
        rows.append(
            ("memory of a run", size(taken.memory.workspace), f"activations; at most {live} hold data at a time")
        )
    return rows


def _code(code: CodeUse) -> str:
    if not code.kernels:
        return "code"
    kernels = f"{len(code.kernels)} kernel{'' if len(code.kernels) == 1 else 's'}"
    return f"code; {size(sum(code.kernels.values()))} of it in {kernels}, the rest calls them"


def target_of(target: Mapping[str, Any]) -> dict[str, str]:
    """What it was compiled for."""
    features = target.get("features") or target.get("cpu_features") or ()
    return {
        "name": str(target["name"]),
        "machine": str(target.get("machine", "")),
        "needs": ", ".join(str(one) for one in features),
    }


def counting_command(target: Mapping[str, Any], folder: str) -> str:
    """The command that counts a network's instructions for Arm; "" where it is for another machine."""
    if target.get("machine") != "aarch64" or "plan" in target:
        return ""
    return f"python benchmarks/arm/counts.py out/{folder}"
