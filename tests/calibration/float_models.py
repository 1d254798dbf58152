"""Small float models for calibration, with weights drawn at random."""

import numpy as np
import onnx
import onnx.parser

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,16,16] x) => (float[1,10] y)
{
  c1 = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1)
  b1 = BatchNormalization (c1, gamma, beta, mean, variance)
  r1 = Relu (b1)
  c2 = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r1, w2, bias2)
  s2 = Sigmoid (c2)
  m2 = Mul (c2, s2)
  c3 = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=8> (m2, w3)
  a3 = Add (c3, r1)
  r3 = Relu (a3)
  p3 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r3)
  c4 = Conv <kernel_shape=[1,1]> (p3, w4)
  c5 = Conv <kernel_shape=[1,1]> (p3, w5)
  k = Concat <axis=1> (c4, c5)
  c6 = Conv <kernel_shape=[1,1]> (k, w6)
  g = GlobalAveragePool (c6)
  f = Flatten (g)
  y = Gemm <transB=1> (f, w7, bias7)
}
"""
ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,12,16] x) => (float[1,12,16] y)
<int64[3] heads = {12, 2, 8}, int64[3] whole = {1, 12, 16}, int64[3] split = {16, 16, 16}>
{
  n = LayerNormalization <axis=-1> (x, gamma, beta)
  qkv = MatMul (n, w1)
  q, k, v = Split <axis=-1> (qkv, split)
  q3 = Reshape (q, heads)
  qt = Transpose <perm=[1,0,2]> (q3)
  k3 = Reshape (k, heads)
  kt = Transpose <perm=[1,2,0]> (k3)
  v3 = Reshape (v, heads)
  vt = Transpose <perm=[1,0,2]> (v3)
  scores = MatMul (qt, kt)
  p = Softmax <axis=-1> (scores)
  mixed = MatMul (p, vt)
  turned = Transpose <perm=[1,0,2]> (mixed)
  flat = Reshape (turned, whole)
  out = MatMul (flat, w2)
  y = Add (out, x)
}
"""


def make(text, seed=0, **shapes):
    """The model, with constants of these shapes."""
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(seed)
    for name, shape in shapes.items():
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[-1]
        values = generator.normal(0, (2 / fan_in) ** 0.5 if len(shape) > 1 else 0.3, shape)
        if name.startswith(("gamma", "variance")):
            values = np.abs(values) + 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.checker.check_model(model)
    return model


def residual():
    """Convolutions with batch norm, SiLU, a residual sum, a concatenation, and a linear layer."""
    return make(
        RESIDUAL, w1=(8, 3, 3, 3), gamma=(8,), beta=(8,), mean=(8,), variance=(8,), w2=(8, 8, 3, 3), bias2=(8,),
        w3=(8, 1, 3, 3), w4=(8, 8, 1, 1), w5=(8, 8, 1, 1), w6=(12, 16, 1, 1), w7=(10, 12), bias7=(10,),
    )  # fmt: skip


def attention():
    """One attention layer with two heads on 12 tokens."""
    return make(ATTENTION, gamma=(16,), beta=(16,), w1=(16, 48), w2=(16, 16))


def frames(model, count=8, seed=0):
    """Normal numbers for each input."""
    generator = np.random.default_rng(seed)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return [
        {name: generator.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)
    ]
