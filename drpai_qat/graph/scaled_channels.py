"""Which tensors of a model hold those of its source with scaled channels, told in the model's metadata.

Calibration scales channels where 8 bits hold them better, in a way that leaves the network's function as it is
(`calibration.scaling`). Whoever compares tensors with the source's has to know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

_KEY = "drpai_qat.scaled_channels"

SCALED = "_scaled"
"""Ends the name of such a tensor."""

Along = NDArray[np.float32]
"""One positive factor per channel, shaped to multiply the tensor."""


@dataclass(frozen=True)
class ScaledChannels:
    """The factor of each scaled tensor, by name."""

    factors: Mapping[str, Along] = field(default_factory=dict)

    @classmethod
    def read(cls, model: onnx.ModelProto) -> ScaledChannels:
        """What a model's metadata says; nothing, where it is not ours."""
        text = next((one.value for one in model.metadata_props if one.key == _KEY), "{}")
        try:
            told = {str(name): np.asarray(values, np.float32) for name, values in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()
        return cls({name: one for name, one in told.items() if np.isfinite(one).all() and (one > 0).all()})

    def write(self, model: onnx.ModelProto) -> None:
        """Tell it in the model's metadata."""
        if self.factors:
            told: dict[str, Any] = {
                name: np.round(one.astype(np.float64), 9).tolist() for name, one in self.factors.items()
            }
            model.metadata_props.add(key=_KEY, value=json.dumps(told))
