"""What is decided of a network before any kernel is written (`planning.py` decides, the lowerings read)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from drpai_qat.graph.grid import Grid
from drpai_qat.graph.parts import Masked, Parts, Planes
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.lowering.arithmetic import LayerPlan
from drpai_qat.lowering.storage import Form

ConvKernel = Literal["direct", "depthwise", "winograd"]


@dataclass(frozen=True, eq=False)
class Read:
    """One of the inputs whose products a convolution adds up: a stored tensor, with weights of its own.

    Attributes:
        name: the tensor: the convolution's input, or a part of one that is not computed.
        layer: the arithmetic, and the weights of this tensor's channels.
        form: what the kernel reads.
    """

    name: str
    layer: LayerPlan
    form: Form


@dataclass(frozen=True, eq=False)
class ConvPlan:
    """How a Conv is computed: real = mul * (acc_0 + ratio_1 * acc_1 + ...), with `mul` of the first read.

    Attributes:
        kernel: which one; those for depthwise convolutions and Winograd's algorithm take one read.
        reads: at least one; all of them in integers where there are several.
        shape: sizes as the kernel takes them; its channels are those of the first read's form.
    """

    kernel: ConvKernel
    reads: tuple[Read, ...]
    shape: ConvShape

    @property
    def compute(self) -> str:
        """The widest arithmetic among the reads, for the report."""
        return "int16" if any(r.layer.compute == "int16" for r in self.reads) else self.reads[0].layer.compute

    def ratio(self, read: Read) -> float:
        """Real value of one accumulator step of a read, as a multiple of the first one's."""
        first = self.reads[0].layer.grid
        return 1.0 if first is None or read.layer.grid is None else read.layer.grid.scale / first.scale


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """The decisions of one network, for one instruction set.

    Attributes:
        grids: tensors that lie on an integer grid by construction.
        wide_grids: grids of bounded tensors that training left without one.
        parts: tensors that are read by their parts.
        stored_parts: those among them that a kernel computes, and how it stores their parts.
        convolutions: by output; a Conv without a plan has no kernel of ours.
        matrices: arithmetic of the Gemm and MatMul nodes that read their input by parts, one for each part; by output.
        forms: of tensors all of whose readers are convolutions that read one form; a producer may write that form
            or the plain image.
        exact: no integer format is coarser than float32.
        outrun: layers, by output, whose input has parts in integers, and that are computed in float32 all the same.
    """

    grids: Mapping[str, Grid]
    wide_grids: Mapping[str, Grid]
    parts: Parts
    stored_parts: Mapping[str, Masked | Planes]
    convolutions: Mapping[str, ConvPlan]
    matrices: Mapping[str, tuple[LayerPlan, ...]]
    forms: Mapping[str, Form]
    exact: bool = True
    outrun: frozenset[str] = frozenset()

    def target_grid(self, name: str) -> Grid | None:
        """The grid on which a tensor is stored; None for float32."""
        return self.grids.get(name) or self.wide_grids.get(name)
