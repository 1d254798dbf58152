"""The graph as it is compiled, and how its tensors are stored: what follows from the model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from drpai_qat.graph.canonical import Graph, read_graph
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.parts import Parting, find_parts
from drpai_qat.graph.ranges import find_bounds, find_grids
from drpai_qat.graph.recurrent import expand_recurrent
from drpai_qat.graph.rewrite import hoist_fake_quant, pool_before_concat
from drpai_qat.graph.tables import fold_constant_nodes
from drpai_qat.graph.volumes import volumes_as_images
from drpai_qat.graph.wide_grids import int16_grids


def read_network(model: onnx.ModelProto) -> Graph:
    """Read a canonical QDQ model, with the rewrites that make more of it integer.

    Raises: LoweringError: see `read_graph`.
    """
    graph = volumes_as_images(read_graph(expand_recurrent(model)))
    return fold_constant_nodes(pool_before_concat(hoist_fake_quant(graph)))


@dataclass(frozen=True, eq=False)
class Storage:
    """How tensors are stored; those that are not named here are float32.

    Attributes:
        grids: of tensors that lie on an integer grid by construction, and of stored parts.
        wide_grids: int16 grids of bounded tensors that training left without one.
        parting: tensors that are read by their parts.
    """

    grids: Mapping[str, Grid]
    wide_grids: Mapping[str, Grid]
    parting: Parting

    @property
    def stored(self) -> dict[str, Grid]:
        """The grid of every tensor that has one."""
        return {**self.wide_grids, **self.grids}


def find_storage(graph: Graph, activation: str, exact_sums: bool = True) -> Storage:
    """Decide what is stored on which grid.

    Args:
        graph: `parts` that are stored get their shapes in it.
        activation: type of 8-bit activations.
        exact_sums: no integer format is coarser than float32.
    """
    grids = find_grids(graph, activation)
    bounds = find_bounds(graph, grids)
    wide = int16_grids(graph, grids, bounds, exact_sums)
    parting = find_parts(graph, grids, wide, bounds, activation, exact_sums)
    kept = {name: grid for name, grid in wide.items() if name not in parting.parts}
    return Storage({**grids, **parting.grids}, kept, parting)
