"""A comparison as text: the verdict first, then tables of at most 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from drpai_qat.check.figures import OutputFigures
from drpai_qat.compare.comparison import Comparison
from drpai_qat.compare.layers import Figures, LayerFigures, first_divergence
from drpai_qat.compare.parameters import Parameters
from drpai_qat.core.text import one_line

WIDTH = 80
_SHOWN = 12
"""Layers and grids in a table; --verbose shows all."""


def described(found: Comparison, everything: bool = False) -> Iterator[str]:
    """The lines.

    Args:
        everything: also layers and grids that agree.
    """
    yield found.verdict
    yield ""
    for label, (name, kind), index in zip("AB", found.sides, (0, 1), strict=True):
        numbers = f"{found.parameters.operators[index]} operators, {found.parameters.parameters[index]:,} parameters"
        yield from _wrapped(f"{label}  {one_line(name)}: {kind}, {numbers}")
    yield ""
    yield from _parameters(found.parameters, everything)
    yield ""
    yield from _layers(found, everything)
    if found.outputs:
        yield ""
        yield from _outputs(found.outputs)
    for note in found.notes:
        yield from _wrapped(f"note: {note}")


def _parameters(parameters: Parameters, everything: bool) -> Iterator[str]:
    grids = [one for one in parameters.grids if everything or (one.ours and one.theirs)]
    equal, same = sum(one.equal for one in grids), sum(one.same and not one.equal for one in grids)
    alone = sum(not one.theirs for one in parameters.grids), sum(not one.ours for one in parameters.grids)
    if any(alone):
        yield f"without a grid on the other side: {alone[0]} in A, {alone[1]} in B"
    apart = [one for one in grids if not one.equal]
    yield (
        f"grids: {equal} of {len(grids)} equal bit for bit, {same} but for roundings, "
        f"{len(grids) - equal - same} different"
    )
    shown = grids if everything else [one for one in apart if not one.same][:_SHOWN] or apart[:3]
    if shown:
        yield f"{'tensor':31} {'kind':10} {'ulp':>10} {'percent':>10} {'zero p.':>7} {'weights':>7}"
    for one in shown:
        ulp, percent = _number(one.ulp), "" if one.percent is None else f"{one.percent:.3g}"
        yield (
            f"{_cut(one.tensor, 31):31} {one.kind:10} {ulp:>10} {percent:>10} {_number(one.zero_points):>7} "
            f"{_number(one.integers):>7}"
        )
        if one.ulp is None:
            yield from _wrapped(f"A {one.ours or 'without grid'}, B {one.theirs or 'without grid'}", "    ")
    if parameters.biases:
        steps = [one.steps for one in parameters.biases if one.steps is not None]
        most = f", at most {max(steps):.3g} accumulator steps apart" if steps else ""
        yield f"biases: {len(parameters.biases)} compared{most}"


def _layers(found: Comparison, everything: bool) -> Iterator[str]:
    kind = "random sample" if found.random else "sample"
    plural = "s" if found.samples > 1 else ""
    yield f"layers: error of B in steps of A's grid, over {found.samples} {kind}{plural}"
    yield f"{'':31} {'fed with A':>22}  {'on its own':>22}"
    yield f"{'tensor':31} {'max':>7} {'equal':>7} {'dB':>6}  {'max':>7} {'equal':>7} {'dB':>6}"
    first = first_divergence(found.layers)
    shown = list(found.layers) if everything else _worth_showing(found.layers)
    for one in shown:
        name = f"> {_cut(one.pair.ours, 29)}" if one is first else _cut(one.pair.ours, 31)
        yield f"{name:31} {_figures(one.single)}  {_figures(one.accumulated)}"
    if len(shown) < len(found.layers):
        yield f"({len(found.layers) - len(shown)} more, which differ less: --verbose)"


def _worth_showing(layers: Sequence[LayerFigures]) -> list[LayerFigures]:
    """Those that diverge or differ most, in order."""
    first = first_divergence(layers)
    ranked = sorted(layers, key=lambda one: (one is not first, not one.diverges, one.single.sqnr_db))
    kept = {id(one) for one in ranked[:_SHOWN]}
    return [one for one in layers if id(one) in kept]


def _figures(one: Figures) -> str:
    return f"{one.max_lsb:7.4g} {100 * one.share_equal:6.2f}% {_decibel(one.sqnr_db)}"


def _outputs(outputs: Sequence[OutputFigures]) -> Iterator[str]:
    yield f"{'output':31} {'max':>10} {'LSB':>8} {'dB':>6} {'cosine':>8} {'top-1':>11}"
    for one in outputs:
        yield (
            f"{_cut(one.name, 31):31} {one.max_error:10.4g} {one.max_error_lsb:8.3g} {_decibel(one.sqnr_db)} "
            f"{one.cosine:8.5f} {'' if one.top1 is None else str(one.top1).split(' ')[0]:>11}"
        )


def _decibel(value: float) -> str:
    return f"{value:6.1f}" if math.isfinite(value) else ("  same" if value > 0 else "  -inf")


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _cut(name: str, width: int) -> str:
    """The end of a name, which tells more than its beginning."""
    plain = one_line(name)
    return plain if len(plain) <= width else "…" + plain[1 - width :]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
