"""Divides the canonical graph: sub-networks for the accelerator, and networks for the CPU between them.

Each node gets a phase: even ones run on the CPU, odd ones on the accelerator, and no node has an earlier phase than one
that it reads. So the parts can run one after the other. A trained grid between CPU and accelerator goes to the
accelerator, which quantizes there anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from drpai_qat.backends.drpai_sdk.operators import FUSED, WEIGHTS, Operators
from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Node

MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""A sub-network without one of them is not worth the way to the accelerator."""


@dataclass(frozen=True)
class Part:
    """Nodes that run together, in order.

    Attributes:
        name: "sub_0_drpai", "sub_1_cpu" ...; counted in the order in which the parts run.
        accelerated: it is for the accelerator.
    """

    name: str
    accelerated: bool
    nodes: tuple[Node, ...]


def divide(graph: Graph, operators: Operators) -> tuple[Part, ...]:
    """The parts of a graph, in an order in which they can run.

    Args:
        graph: canonical; LSTM and GRU stay whole, on the CPU.
        operators: that the accelerator takes.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    ranges = _trained_ranges(graph)
    taken: dict[str, bool] = {}  # by the first output of a node
    for node in graph.nodes:
        if node.output not in ranges:
            taken[node.output] = _takes(graph, node, operators, makers, taken)
    on_cpu: set[str] = set()
    while True:
        everywhere = _with_ranges(graph, taken, makers, ranges - on_cpu)
        phases = _phases(graph, everywhere, makers)
        groups = list(_groups(graph, everywhere, phases, makers))
        idle = [group for on, _, group in groups if on and not any(node.op in MULTIPLYING for node in group)]
        if not idle:
            break
        for node in (node for group in idle for node in group):  # it stays on the CPU, which divides anew
            if node.output in ranges:
                on_cpu.add(node.output)
            else:
                taken[node.output] = False
    ordered = sorted(groups, key=lambda one: one[1])
    return tuple(
        Part(f"sub_{index}_{'drpai' if on else 'cpu'}", on, tuple(group))
        for index, (on, _, group) in enumerate(ordered)
    )


def macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of a node."""
    if node.op not in MULTIPLYING or not all(name in graph.shapes for name in (*node.inputs[:2], node.output)):
        return 0
    first, second, out = (graph.shapes[name] for name in (node.inputs[0], node.inputs[1], node.output))
    if node.op == "Conv":
        return math.prod(out) * math.prod(second[1:])
    if node.op == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    depth = first[0] if node.op == "Gemm" and node.attributes.get("transA") else first[-1]
    return math.prod(out) * depth


def _takes(
    graph: Graph, node: Node, operators: Operators, makers: Mapping[str, Node], taken: Mapping[str, bool]
) -> bool:
    condition = operators.conditions.get(node.op)
    if condition is None or any(graph.dtypes.get(name, "float32") != "float32" for name in node.outputs if name):
        return False
    if condition == WEIGHTS:
        return graph.is_constant(node.inputs[1])
    if condition == FUSED:
        maker = makers.get(node.inputs[0])
        while maker is not None and maker.output not in taken:  # a trained range
            maker = makers.get(maker.inputs[0])
        return maker is not None and taken[maker.output]
    return True


def _trained_ranges(graph: Graph) -> set[str]:
    """Outputs of trained grids, and of the Clips in front of them that narrow the range and serve nothing else."""
    readers = graph.consumers()
    grids = {node.output for node in graph.nodes if node.op == FAKE_QUANT}
    clips = {
        node.output
        for node in graph.nodes
        if node.op == "Clip" and node.output not in graph.outputs
        if all(reader.output in grids for reader in readers.get(node.output, [node]))
    }
    return grids | clips


def _with_ranges(
    graph: Graph, taken: Mapping[str, bool], makers: Mapping[str, Node], ranges: Set[str]
) -> dict[str, bool]:
    """Where each node runs; trained ranges are on the accelerator if what makes or what reads the value is."""
    readers = graph.consumers()

    def side(node: Node | None, step: Callable[[Node], Iterable[Node | None]]) -> bool:
        if node is None:
            return False
        return taken[node.output] if node.output in taken else any(side(one, step) for one in step(node))

    def accelerated(node: Node) -> bool:
        if node.output in taken:
            return taken[node.output]
        behind = side(node, lambda one: [makers.get(one.inputs[0])])
        return node.output in ranges and (behind or side(node, lambda one: readers.get(one.output, [])))

    return {node.output: accelerated(node) for node in graph.nodes}


def _phases(graph: Graph, everywhere: Mapping[str, bool], makers: Mapping[str, Node]) -> dict[str, int]:
    phases: dict[str, int] = {}
    for node in graph.nodes:
        phase = int(everywhere[node.output])
        for name in node.inputs:
            if (maker := makers.get(name)) is not None:
                before = phases[maker.output]
                phase = max(phase, before + (before % 2 != int(everywhere[node.output])))
        phases[node.output] = phase
    return phases


def _groups(
    graph: Graph, everywhere: Mapping[str, bool], phases: Mapping[str, int], makers: Mapping[str, Node]
) -> Iterable[tuple[bool, int, list[Node]]]:
    """On the accelerator or not, phase, nodes: all of a phase for the CPU, what hangs together for the accelerator."""
    group_of: dict[str, list[Node]] = {}
    for node in graph.nodes:
        phase = phases[node.output]
        if everywhere[node.output]:
            joined: list[list[Node]] = []
            for name in node.inputs:
                maker = makers.get(name)
                if maker is not None and phases[maker.output] == phase:
                    group = group_of[maker.output]
                    if not any(group is one for one in joined):
                        joined.append(group)
            merged = [one for group in joined for one in group]
        else:
            merged = next((g for key, g in group_of.items() if phases[key] == phase), [])
        merged = [*merged, node]
        for one in merged:
            group_of[one.output] = merged
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    seen: list[list[Node]] = []
    for node in graph.nodes:
        group = group_of[node.output]
        if not any(group is one for one in seen):
            seen.append(group)
            yield everywhere[node.output], phases[node.output], sorted(group, key=lambda one: order[id(one)])
