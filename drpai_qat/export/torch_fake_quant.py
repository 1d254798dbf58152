"""Fake-quant modules of torch.ao and torchao, replaced by one that both of PyTorch's ONNX exporters can write.

PyTorch knows five: `FakeQuantize`, its fixed-range and fused-observer kinds, the learnable one, and torchao's copies of
them. They share the parameters that matter. The TorchScript exporter writes the first for three ranges only and the
others not at all, and loses the shape of what comes after; the dynamo exporter writes none. `FixedFakeQuant` computes
the same and has a form for each: a symbolic for TorchScript, decomposed operators for dynamo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from drpai_qat.core.errors import ModelError

_TYPE_RANGES = ((torch.int8, -128, 127), (torch.uint8, 0, 255), (torch.int16, -32768, 32767), (torch.uint16, 0, 65535))
_BYTES = (torch.int8, torch.uint8)
OPSET_OF_16_BITS = 21


@dataclass(frozen=True)
class Grid:
    """A trained range.

    Attributes:
        scale: float32, shape () or (channels,).
        zero_point: of the type to export, the scale's shape.
        qmin: smallest integer.
        qmax: largest integer.
        axis: of the channels; None for one range for the whole tensor.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int
    axis: int | None


class _QuantizeDequantize(torch.autograd.Function):  # type: ignore[misc]
    """Fake-quant with a symbolic that allows every range and keeps the shape known."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None
    ) -> Tensor:
        del ctx
        integers = zero_point.to(torch.int32)
        if axis is None:
            return torch.fake_quantize_per_tensor_affine(x, scale, integers, qmin, qmax)
        return torch.fake_quantize_per_channel_affine(x, scale, integers, axis, qmin, qmax)

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None) -> Any:
        dtype = _exported_type(qmin, qmax)
        attributes = {} if axis is None else {"axis_i": axis}
        quantized = g.op("QuantizeLinear", x, scale, zero_point, **attributes)
        if (dtype, qmin, qmax) not in _TYPE_RANGES:
            low = g.op("Constant", value_t=torch.tensor(qmin, dtype=dtype))
            high = g.op("Constant", value_t=torch.tensor(qmax, dtype=dtype))
            quantized = g.op("Clip", quantized, low, high)
        result = g.op("DequantizeLinear", quantized, scale, zero_point, **attributes)
        result.setType(x.type())
        return result


class FixedFakeQuant(nn.Module):  # type: ignore[misc]
    """Fake-quant with a frozen range, in place of a module that observed it."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.qmin, self.qmax, self.axis = grid.qmin, grid.qmax, grid.axis
        self.register_buffer("scale", grid.scale)
        self.register_buffer("zero_point", grid.zero_point)
        if grid.axis is None:
            self._scale, self._zero_point = float(grid.scale), int(grid.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x, on the grid."""
        if not torch.compiler.is_exporting():
            return _QuantizeDequantize.apply(x, self.scale, self.zero_point, self.qmin, self.qmax, self.axis)
        ops = torch.ops.quantized_decomposed
        limits = (self.qmin, self.qmax, self.zero_point.dtype)
        if self.axis is None:  # the dynamo exporter wants numbers here, not tensors
            quantized = ops.quantize_per_tensor(x, self._scale, self._zero_point, *limits)
            return ops.dequantize_per_tensor(quantized, self._scale, self._zero_point, *limits)
        integers = self.zero_point.to(torch.int64)
        quantized = ops.quantize_per_channel(x, self.scale, integers, self.axis, *limits)
        return ops.dequantize_per_channel(quantized, self.scale, integers, self.axis, *limits)


def is_fake_quant(module: nn.Module) -> bool:
    """Whether a module is any of the kinds above; torchao's share no base class with torch.ao's."""
    return all(hasattr(module, name) for name in ("fake_quant_enabled", "scale", "zero_point", "quant_min"))


def refuse_unobserved(model: nn.Module) -> None:
    """Make `model` raise a ModelError where its forward reaches a range that never saw data.

    A forward and not a look at the modules decides: prepared models hold observers that they never use.
    """
    for name, module in model.named_modules():
        if is_fake_quant(module) and bool(module.fake_quant_enabled[0]) and not _observed(module):

            def refuse(*_: Any, where: str = name) -> None:
                raise ModelError(f"{where} never saw data: run the model with its observers on before export")

            module.register_forward_pre_hook(refuse)


def freeze(model: nn.Module) -> tuple[int, int]:
    """Replace every fake-quant module of `model`, in place.

    Returns: number of ranges kept; number of modules that were switched off and left out.
    Raises: ModelError: a range that ONNX has no type for.
    """
    replaced: dict[int, nn.Module] = {}
    off = 0
    for name, module in list(model.named_modules(remove_duplicate=False)):  # one module may stand in several places
        if not is_fake_quant(module):
            continue
        if id(module) not in replaced:
            enabled = bool(module.fake_quant_enabled[0])
            off += not enabled
            replaced[id(module)] = FixedFakeQuant(_grid(module)) if enabled and _observed(module) else nn.Identity()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replaced[id(module)])
    return len(replaced) - off, off


def _observed(module: nn.Module) -> bool:
    lowest = getattr(getattr(module, "activation_post_process", module), "min_val", None)
    return not isinstance(lowest, Tensor) or (lowest.numel() > 0 and bool(torch.isfinite(lowest).all()))


def _grid(module: nn.Module) -> Grid:
    observer = getattr(module, "activation_post_process", module)
    qmin = int(getattr(observer, "quant_min", module.quant_min))
    qmax = int(getattr(observer, "quant_max", module.quant_max))
    per_channel = bool(getattr(module, "is_per_channel", module.scale.numel() > 1))
    shape = (-1,) if per_channel else ()
    # The learnable kind holds both as float parameters and rounds the zero point in its forward.
    zero_point = module.zero_point.detach().float().round().clamp(qmin, qmax).to(_exported_type(qmin, qmax))
    scale = module.scale.detach().float().clone()
    return Grid(
        scale.reshape(shape), zero_point.reshape(shape), qmin, qmax, int(module.ch_axis) if per_channel else None
    )


def _exported_type(qmin: int, qmax: int) -> torch.dtype:
    for dtype, lowest, highest in _TYPE_RANGES:
        if (qmin < 0) == (lowest < 0) and lowest <= qmin and qmax <= highest:
            return dtype
    raise ModelError(f"ONNX has no type for the integers {qmin}..{qmax} of a fake-quant")


def opset_needed(model: nn.Module) -> int:
    """The ONNX operator set that the frozen ranges of `model` need."""
    wide = (m for m in model.modules() if isinstance(m, FixedFakeQuant) and m.zero_point.dtype not in _BYTES)
    return OPSET_OF_16_BITS if any(wide) else 13
