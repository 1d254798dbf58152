"""Writers of operators, one family a module. Importing this package registers all of them."""

from drpai_qat.backends.tflite.ops import affine, elementwise, functions, layers, movement, normalization, pooling

__all__ = ["affine", "elementwise", "functions", "layers", "movement", "normalization", "pooling"]
