"""Legal operators that keep a tensor's shape: each is a chain of nodes that onnxruntime runs, or nearly always does.

A function takes the chain, the tensor's name and its shape, and returns the name of the result. What a tensor or an
opset does not allow raises ValueError. The order of the modules is that of the register, from which seeds choose.
"""

from __future__ import annotations

from tests.attack.inserts import values, movement, layers, control  # isort: skip
from tests.attack.inserts.register import INSERTS

__all__ = ["INSERTS", "control", "layers", "movement", "values"]
