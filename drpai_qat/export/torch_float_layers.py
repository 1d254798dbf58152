"""Which modules with weights PyTorch's prepare_qat left in float32, and what to do about each kind."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from drpai_qat.core.text import listed
from drpai_qat.export.torch_fake_quant import is_fake_quant

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED, *_RECURRENT)

_ADVICE = {
    "transposed": "prepare_qat does not quantize the weights of transposed convolutions: give them a fake-quant with "
    "torch.nn.utils.parametrize.register_parametrization(module, 'weight', torch.ao.quantization.FakeQuantize(...)), "
    "per tensor, or on ch_axis 1",
    "recurrent": "prepare_qat has no form of it: torch.ao.nn.quantizable.LSTM writes an LSTM as Linear layers, which "
    "it quantizes; write a GRU or RNN with nn.Linear likewise",
    "left out": "it has no qconfig, or prepare_qat never saw it: give it one, and prepare and train again",
}


def notes_on_float(model: nn.Module) -> list[str]:
    """One note for each kind of module that has weights and no fake-quant on them."""
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, _LAYERS) and not _quantizes_weights(module):
            found.setdefault(_kind(module), []).append(f"{name or 'the model'} ({type(module).__name__})")
    return [
        f"{listed(names)} {'stays' if len(names) == 1 else 'stay'} float32: {_ADVICE[kind]}"
        for kind, names in found.items()
    ]


def _kind(module: nn.Module) -> str:
    if isinstance(module, _TRANSPOSED):
        return "transposed"
    return "recurrent" if isinstance(module, _RECURRENT) else "left out"


def _quantizes_weights(module: nn.Module) -> bool:
    """A QAT module's own fake-quant, or one that was registered as a parametrization."""
    own = getattr(module, "weight_fake_quant", None)
    if own is not None:
        return True
    parts = getattr(module, "parametrizations", None) if parametrize.is_parametrized(module) else None
    return parts is not None and any(is_fake_quant(one) for one in parts.modules())
