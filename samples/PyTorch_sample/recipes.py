"""How a float network is prepared for quantization-aware training: the four recipes of `qat_retrain.py --recipe`.

All of them leave a module that trains like the float one and computes with fake-quantized weights and activations.

    drpai   the recipe for DRP-AI: no module fusion, no stubs; 7-bit activations in uint8, int8 weights per channel
    fused   conv, batch norm and ReLU fused first, quantize stubs at the ends, PyTorch's x86 ranges
    fx      graph mode of torch.ao.quantization
    pt2e    torchao's export-based flow (needs the package torchao)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
    prepare_qat,
)

warnings.filterwarnings("ignore", message=".*reduce_range will be deprecated")  # the recipe asks for it

RECIPES = ("drpai", "fused", "fx", "pt2e")
DEFAULT_RECIPE = "drpai"
QUANTIZABLE_RECIPES = ("fused", "pt2e")  # fusion, and torchao's annotation, want one ReLU for each place


def drpai_qconfig(*, reduce_range: bool = True) -> QConfig:
    """The DRP-AI recipe's ranges.

    Activations: quint8, 0..255 (0..127 after `reduce_range`), per-tensor affine, moving average of min and max.
    Weights: qint8, -128..127, per-channel symmetric over axis 0, moving average of min and max.
    `FakeQuantize` and not PyTorch's default fused observer, which has no ONNX form.
    """
    return QConfig(
        activation=FakeQuantize.with_args(
            observer=MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=255,
            dtype=torch.quint8,
            qscheme=torch.per_tensor_affine,
            reduce_range=reduce_range,
        ),
        weight=FakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver,
            quant_min=-128,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        ),
    )


def prepare(model: nn.Module, recipe: str, example: Tensor) -> nn.Module:
    """Prepare a copy of a float network for quantization-aware training.

    Args:
        model: float network; for the recipes of `QUANTIZABLE_RECIPES` built with `quantizable=True`.
        recipe: one of `RECIPES`.
        example: float32 input of at least two images; graph-based recipes trace with it.
    Returns: the prepared network, in training mode where the recipe keeps modules.
    Raises: ValueError: no such recipe. ImportError: `pt2e` without torchao.
    """
    if recipe not in _PREPARE:
        raise ValueError(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    return _PREPARE[recipe](copy.deepcopy(model).train(), example)


def _prepare_drpai(model: nn.Module, example: Tensor) -> nn.Module:
    model.qconfig = drpai_qconfig()
    return prepare_qat(model)


def _prepare_fused(model: nn.Module, example: Tensor) -> nn.Module:
    model.fuse_model(is_qat=True)
    model.qconfig = drpai_qconfig()
    _spare_range_before_relu6(model)
    return prepare_qat(model)


class Relu6Observer(MovingAverageMinMaxObserver):
    """Observes what ReLU6 lets through: a range in front of it loses nothing by saturating where ReLU6 does.

    ReLU6 is not fused, so the convolution before it has a range of its own, and one from -20 to 30 would leave a few
    dozen steps for the 0..6 that count: 3 dB instead of 15 dB on EfficientNet-Lite0's scores.
    """

    def forward(self, x_orig: Tensor) -> Tensor:
        super().forward(x_orig.clamp(0.0, 6.0))
        return x_orig


class _FusedAsOne(torch.fx.Tracer):
    """Traces fused modules as one; they are containers, which the default tracer looks into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("torch.ao.nn") or super().is_leaf_module(m, module_qualified_name)


def _spare_range_before_relu6(model: nn.Module) -> None:
    """Give the modules whose output goes into a ReLU6 and nowhere else a `Relu6Observer`."""
    qconfig = QConfig(
        activation=model.qconfig.activation.with_args(observer=Relu6Observer), weight=model.qconfig.weight
    )
    modules = dict(model.named_modules())
    for node in _FusedAsOne().trace(model).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.ReLU6):
            continue
        source = node.args[0]
        while source.op == "call_module" and isinstance(modules[source.target], nn.Identity):
            source = source.args[0]  # where fusion took a batch norm out
        if source.op == "call_module" and len(source.users) == 1:
            modules[source.target].qconfig = qconfig


def _prepare_fx(model: nn.Module, example: Tensor) -> nn.Module:
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    return prepare_qat_fx(model, QConfigMapping().set_global(drpai_qconfig()), (example,))


def _prepare_pt2e(model: nn.Module, example: Tensor) -> nn.Module:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config(is_qat=True))
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(model, (example,), dynamic_shapes=(batch,)).module()
    return prepare_qat_pt2e(exported, quantizer)


_PREPARE: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "drpai": _prepare_drpai,
    "fused": _prepare_fused,
    "fx": _prepare_fx,
    "pt2e": _prepare_pt2e,
}


def training_mode(model: nn.Module, training: bool) -> None:
    """`model.train(training)` for the models of every recipe: those of torch.export have their own way."""
    if isinstance(model, torch.fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes
    ):
        from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train

        (move_exported_model_to_train if training else move_exported_model_to_eval)(model)
    else:
        model.train(training)


@torch.no_grad()
def settle_ranges(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Take the activation ranges anew, as the mean over `batches`, then freeze them. Leaves `model` in eval mode.

    Training sees batch norm with the statistics of the batch, inference with the running ones, and the last steps move
    the weights; the recipe's moving averages, which forget only 1% a step, lag far behind both after a short training.
    """
    fake_quants = [module for module in model.modules() if hasattr(module, "enable_observer")]
    observers = [module for module in model.modules() if _averages_a_tensor(module)]
    constants = [observer.averaging_constant for observer in observers]
    training_mode(model, False)
    for observer in observers:
        observer.reset_min_max_vals()
    for fake_quant in fake_quants:
        fake_quant.enable_observer()
    for index, batch in enumerate(batches):
        for observer in observers:
            observer.averaging_constant = 1.0 / (index + 1)
        model(batch)
    for observer, constant in zip(observers, constants, strict=True):
        observer.averaging_constant = constant
    for fake_quant in fake_quants:
        fake_quant.disable_observer()


def _averages_a_tensor(module: nn.Module) -> bool:
    return hasattr(module, "averaging_constant") and not hasattr(module, "ch_axis")  # of torch.ao or of torchao
