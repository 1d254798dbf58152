"""Small QDQ models as text, shared by tests."""

from __future__ import annotations

import onnx
import onnx.parser

QDQ = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[1,3,8,8] x) => (float[1,4] y)
<float sx = {0.02}, uint8 zx = {128}, float sr = {0.05}, uint8 zr = {0}, float so = {0.1}, int8 zo = {0}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (dx, w)
  r = Relu (c)
  qr = QuantizeLinear (r, sr, zr)
  dr = DequantizeLinear (qr, sr, zr)
  p = GlobalAveragePool (dr)
  f = Flatten (p)
  qo = QuantizeLinear (f, so, zo)
  y = DequantizeLinear (qo, so, zo)
}
"""


def qdq_model(text: str = QDQ) -> onnx.ModelProto:
    """Conv -> Relu -> pool -> Flatten between trained grids, weights fake-quantized per channel; or another text."""
    import numpy as np

    text = text.replace(
        "c = Conv",
        "wq = QuantizeLinear <axis=0> (w0, sw, zw)\n  w = DequantizeLinear <axis=0> (wq, sw, zw)\n  c = Conv",
    )
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(weights, "w0"),
            onnx.numpy_helper.from_array(np.abs(weights).max((1, 2, 3)) / np.float32(127), "sw"),
            onnx.numpy_helper.from_array(np.zeros(4, np.int8), "zw"),
        ]
    )
    onnx.checker.check_model(model)
    return model
