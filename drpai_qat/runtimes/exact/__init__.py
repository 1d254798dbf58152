"""The trained graph in exact arithmetic: float64, operator by operator, parameters as the file holds them.

float64 has 29 bits more than the float32 that the file was trained in: where two correct float32 computations may
round a value to different integers, this one tells which of them is right, and how near the boundary the value lies.
"""

from drpai_qat.runtimes.exact.network import ExactNetwork
from drpai_qat.runtimes.exact.values import FLOAT_TYPES, Missing, Quantized, Value

__all__ = ["FLOAT_TYPES", "ExactNetwork", "Missing", "Quantized", "Value"]
