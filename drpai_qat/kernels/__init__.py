"""Integer and float kernels as TIR, and the instruction sets they are written for.

A kernel is a function of plain shapes, dtypes and an `Epilogue`; it returns a `tirx.PrimFunc`. Nothing here knows ONNX.
Activations are stored channels-last. Every kernel ends in an epilogue (`expr.py`, `epilogue.py`): the chain of
elementwise steps (requantize, batch norm, ReLU, residual add ...) that runs on registers before the one store.
"""
