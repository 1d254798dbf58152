"""An inspection for people: within 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from drpai_qat.core.text import listed, one_line, shortened
from drpai_qat.graph.remedies import of_maker
from drpai_qat.inspection.content import Inspection, Network, Tensor
from drpai_qat.inspection.doubts import Doubt
from drpai_qat.inspection.quantized import Kind, Unranged

_LONGEST_NAME = 44
_MOST = 4
_TITLE = 14  # columns


def show(inspection: Inspection, console: Console) -> None:
    """Print an inspection."""
    before = ""
    for title, text in _rows(inspection):
        shown = title if title != before else ""
        for line in textwrap.wrap(one_line(text, 1000), console.width - _TITLE, break_on_hyphens=False):
            console.print(Text.assemble((f"{shown:{_TITLE}}", "bold"), line), soft_wrap=True)
            shown = ""
        before = title
    if inspection.next:  # on a line of its own, to be copied
        console.print(Text.assemble(("next: ", "bold"), inspection.next), soft_wrap=True)


def _rows(one: Inspection) -> Iterator[tuple[str, str]]:
    yield "model", f"{one.path.name}, {_amount(one.size, 'B')}, opset {one.opset}"
    yield "made by", f"{one.origin.exporter} ({one.origin.evidence[0]})"
    if one.origin.recipe:
        evidence = f" ({one.origin.evidence[1]})" if len(one.origin.evidence) > 1 else ""
        unknown = one.origin.recipe.startswith("Q/DQ")
        yield "quantized by", f"{'' if unknown else 'looks like '}{one.origin.recipe}{evidence}"
    for title, tensors in (("input", one.inputs), ("output", one.outputs)):
        for tensor in tensors[:_MOST]:
            yield title, _tensor(tensor)
        if len(tensors) > _MOST:
            yield title, f"and {len(tensors) - _MOST} more"
    for shape in one.shapes:
        yield "dynamic", f"needs -s {shape}: an example; put in the size of your data"
    if not one.quantized:
        yield "fake-quant", "none: a float model; its ranges have to be calibrated with your data (PTQ)"
    if one.network is not None:
        yield from _network(one.network, one.origin.framework)
    for doubt in (*one.scales, *_gathered(one.network.doubts if one.network is not None else ())):
        yield "suspicious", _doubt(doubt)
    if one.refused:
        yield "compiles", "no: see the error"


def _tensor(tensor: Tensor) -> str:
    return f"{_name(tensor.name)}: {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


def _network(network: Network, framework: str) -> Iterator[tuple[str, str]]:
    if network.dynamic:
        yield "fake-quant", "dynamic: activations have no ranges of their own; they are calibrated with your data"
    yield "weights", _kinds(network.weights)
    yield "activations", _kinds(network.activations)
    if not network.dynamic:  # else data will decide
        yield from _ranges(network, framework)
        yield from _macs(network)
    if network.imported:
        counts = [f"{count} {op}" for op, count in sorted(network.imported.items())]
        yield "operators", f"in float32 through TVM's importer, slowly: {listed(counts, 8)}"
    for node, op, why in network.unsupported[:_MOST]:
        yield "unsupported", f"{op} ({_name(node)}): {why}"
    for text in network.warnings:
        yield "warning", text


def _kinds(kinds: Iterable[Kind]) -> str:
    return "; ".join(map(str, kinds)) or "none quantized"


def _ranges(network: Network, framework: str) -> Iterator[tuple[str, str]]:
    ranges = network.ranges
    counts = [f"{ranges.trained + ranges.inherited} tensors with a trained range"]
    if ranges.bounded:
        counts.append(f"{ranges.bounded} without but bounded")
    if ranges.missing:
        counts.append(f"{ranges.missing} without")
    yield "layers read", ", ".join(counts)
    groups: dict[tuple[bool, str], list[Unranged]] = {}
    for one in ranges.unranged:
        groups.setdefault((one.bounded, one.op), []).append(one)
    for (bounded, op), found in sorted(groups.items(), key=lambda group: group[0]):
        what = "network input" if not op else op if len(found) == 1 else f"{len(found)} {op}"
        names, range_by = listed([_name(one.tensor) for one in found], 1), of_maker(op).range_from(framework)
        if bounded:
            text = f"{what}: {names}: bounded, so layers read it in integers; faster with {range_by}"
        else:
            text = f"{what}: {names}: its layers compute in float32; a range comes from {range_by}"
        yield "no range", text


def _macs(network: Network) -> Iterator[tuple[str, str]]:
    if not network.macs:
        return
    least, most = network.shares
    share = f"about {most:.1%}" if 0 < most < 1 else "all" if most else "none"
    text = f"{share} of {_amount(network.macs, 'MAC')} run in integers"
    if most - least >= 0.0005:
        text += f"; on x86 without VNNI, where float32 may be faster, {least:.1%} or more"
    yield "MACs", text
    groups: dict[str, list[tuple[str, int]]] = {}
    for one in network.layers:
        if one.node.reason:
            groups.setdefault(one.node.reason, []).append((one.node.node, one.node.macs))
    for reason, layers in sorted(groups.items(), key=lambda group: -sum(macs for _, macs in group[1])):
        part = sum(macs for _, macs in layers) / network.macs
        names = listed([_name(name) for name, _ in layers], 2)
        yield "float32", f"about {part:.1%} of the MACs: {names}: {reason}"


def _amount(count: int, unit: str) -> str:
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}{unit}"
    return f"{count} {unit}"


def _gathered(doubts: Iterable[Doubt]) -> list[Doubt]:
    """One line a kind: the first one told, and how many there are."""
    found: dict[str, Doubt] = {}
    for doubt in doubts:
        before = found.get(doubt.kind)
        found[doubt.kind] = doubt if before is None else Doubt(doubt.kind, before.tensors + doubt.tensors, before.what)
    return list(found.values())


def _doubt(doubt: Doubt) -> str:
    first, *others = doubt.tensors
    more = f" and {len(others)} more" if others else ""
    return f"{doubt.kind}: {_name(first)}: {doubt.what}{more and f' ({more.strip()})'}"


def _name(name: str) -> str:
    return shortened(one_line(name), _LONGEST_NAME)
