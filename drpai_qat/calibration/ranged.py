"""A float network with the grids that data gave its tensors, from where the quantized one is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

from drpai_qat.calibration import placement
from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.insertion import insert_grids, quantize_biases, quantize_weights
from drpai_qat.calibration.kept import few_of
from drpai_qat.calibration.placement import Site
from drpai_qat.calibration.sixteen_bits import largest_values, steps_of_fine_weights, wide_grids
from drpai_qat.calibration.walk import Visit, frames_in_memory, walk
from drpai_qat.core.progress import Stages
from drpai_qat.core.quantization import QuantParams
from preprocess.opening import with_16_bit_opset
from preprocess.passlog import PassLog

FindSites: TypeAlias = Callable[[gs.Graph], list[Site]]
"""Finds the tensors of a graph that are given a grid."""


@dataclass(frozen=True, eq=False)
class Ranged:
    """A network that can be quantized.

    Attributes:
        model: float, folded.
        grids: of its tensors, by name.
        find_sites: which of them have one.
        frames: that say how large values are, for grids of 16 bits.
    """

    model: onnx.ModelProto
    grids: Mapping[str, QuantParams]
    find_sites: FindSites
    frames: Sequence[Frame] = ()

    def quantized(
        self,
        visit: Visit | None,
        floating: Collection[str],
        wide: Collection[str],
        finest: Collection[str],
        frames: Sequence[Frame],
        progress: Stages,
    ) -> onnx.ModelProto:
        """The canonical model.

        Args:
            visit: what is done to each layer beside the float network; None: nothing.
            floating: names of layers that stay in float.
            wide: names of layers whose activations take 16 bits.
            finest: names of those whose weights do, too; they stay in float where no kernel takes that.
            frames: as many of them as memory allows are run by both networks then.
        """
        source, largest = self._for_16_bits if wide or finest else (self.model, {})
        graph = gs.import_onnx(source)
        steps = {str(layer.name): steps_of_fine_weights(layer) for layer in graph.nodes if layer.name in finest}
        fine = {name: count for name, count in steps.items() if count}
        floats = {*floating, *(steps.keys() - fine.keys())}
        reals = placement.nodes_in_float(graph, floats)
        found = self.sites(graph, reals)
        quantize_weights(graph, floats, fine)
        finer = wide_grids(graph, found, self.grids, {*wide, *fine}, largest)
        insert_grids(graph, found, {**self.grids, **finer}, reals)
        if visit is not None:
            walk(gs.import_onnx(source), graph, few_of(frames, frames_in_memory(source)), visit, progress)
        quantize_biases(graph)
        return gs.export_onnx(graph, do_type_check=False)

    @cached_property
    def _for_16_bits(self) -> tuple[onnx.ModelProto, dict[str, float]]:
        """The model as 16-bit grids need it, and the largest magnitudes of its tensors."""
        raised = with_16_bit_opset(gs.import_onnx(self.model), PassLog())
        return gs.export_onnx(raised, do_type_check=False), largest_values(self.model, list(self.grids), self.frames)

    def sites(self, graph: gs.Graph, floating: Container[str]) -> list[Site]:
        """Those of a graph of the model that others than these nodes read."""
        return [site for site in self.find_sites(graph) if not placement.serves_only(site.tensor, floating)]
