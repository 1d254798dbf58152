"""The samples' networks, by name.

torchvision's own definitions are used where torchvision works; otherwise those of this package, which have the same
parameter names and shapes, so that one checkpoint serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .efficientnet_lite import efficientnet_lite0
from .mobilenet import mobilenet_v2
from .resnet import resnet18, resnet50
from .small import mnist_mlp, small_cnn

_OWN: dict[str, Callable[[int, bool], nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
    "small_cnn": small_cnn,
    "mnist_mlp": mnist_mlp,
}
_IN_TORCHVISION = ("resnet18", "resnet50", "mobilenet_v2")
NAMES = tuple(_OWN)


def build(name: str, num_classes: int, *, quantizable: bool = False) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: one of `NAMES`.
        num_classes: number of outputs.
        quantizable: with stubs, observed sums and a `fuse_model(is_qat)` method, for recipes that fuse modules.
    Returns: the network, in training mode, float32.
    Raises: KeyError: no such name.
    """
    models = _torchvision_models() if name in _IN_TORCHVISION else None
    if models is not None:
        if quantizable:
            return getattr(models.quantization, name)(weights=None, num_classes=num_classes, quantize=False)
        return getattr(models, name)(weights=None, num_classes=num_classes)
    return own(name, num_classes, quantizable=quantizable)


def own(name: str, num_classes: int, *, quantizable: bool = False) -> nn.Module:
    """As `build`, always with the definitions of this package."""
    return _OWN[name](num_classes, quantizable)


def torchvision_reason(error: Exception) -> str:
    """Why torchvision failed, in one line; what to install where it is missing or belongs to another PyTorch."""
    reason = str(error).partition("\n")[0]
    if isinstance(error, ImportError) or "operator torchvision::" in reason:
        release = torch.__version__.partition("+")[0]
        missing = "is not installed" if isinstance(error, ImportError) else "was built for another PyTorch"
        return f"torchvision {missing}: pip install torch=={release} torchvision (pip finds the two that fit)"
    return reason


def _torchvision_models() -> Any:
    """torchvision's module of models; None where it is not installed, or was built for another PyTorch."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError):  # a CUDA build next to a CPU torch: "operator torchvision::nms does not exist"
        return None
    return models
