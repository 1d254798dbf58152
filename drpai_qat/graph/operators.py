"""Which operators have an implementation, and of which kind: known without loading the compiler.

The registries of lowering hold the implementations themselves; a test holds these lists against them.
"""

from __future__ import annotations

from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Graph, Node
from drpai_qat.graph.ranges import batch_norm_affine, clip_limits

ELEMENTWISE = frozenset(
    (
        FAKE_QUANT, "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Div", "Dropout", "Elu", "Erf",
        "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul",
        "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub",
        "Sum", "Swish", "Tanh",
    )
)  # fmt: skip
"""What the kernel in front of it can absorb."""

KERNELS = ELEMENTWISE | {
    QUANTIZE, DEQUANTIZE, "ArgMax", "ArgMin", "AveragePool", "Concat", "Conv", "ConvTranspose", "DepthToSpace",
    "Expand", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization",
    "LayerNormalization", "LogSoftmax", "MatMul", "MaxPool", "Pad", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceSum", "Reshape", "Resize", "Slice", "Softmax", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK",
    "Transpose", "Unsqueeze", "Upsample",
}  # fmt: skip
"""What has a kernel of ours, for the usual operands."""

IMPORTED = frozenset(
    """
    Abs Acos Acosh Add AffineGrid AllClassNMS And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Compress
    Concat ConcatFromSequence Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear
    Div Dropout DynamicQuantizeLinear Einsum Elu EmbedLayerNormalization Equal Erf Exp Expand EyeLike FastGelu Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpPool MatMul MatMulInteger MatMulInteger16 Max MaxPool
    MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot
    Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize RoiAlign Round Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size SkipLayerNormalization Slice
    Softmax Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unique Unsqueeze Upsample Where Xor
    """.split()
)
"""What TVM's ONNX importer converts; `importer_limits.py` names what it converts wrongly."""

POWERS = (1.0, 2.0, 3.0, 0.5, -0.5, -1.0)
"""Exponents of a Pow that has an expression."""


def is_elementwise(graph: Graph, node: Node) -> bool:
    """The node has an expression, with these operands."""
    if node.op not in ELEMENTWISE or graph.dtypes.get(node.output, "float32") != "float32":
        return False
    if node.op == FAKE_QUANT:
        return node.params is not None and not node.params.per_channel
    if node.op == "Clip":
        return clip_limits(graph, node) is not None
    if node.op == "BatchNormalization":
        inference = not node.attributes.get("training_mode", 0) and len([o for o in node.outputs if o]) == 1
        return inference and batch_norm_affine(graph, node) is not None
    if node.op == "PRelu":
        return graph.is_constant(node.inputs[1])
    if node.op == "Pow":
        exponent = graph.constant(node.inputs[1])
        return exponent is not None and exponent.size == 1 and float(exponent.item()) in POWERS
    if node.op == "Cast":
        return graph.dtypes.get(node.inputs[0], "float32") == "float32"
    return not all(graph.is_constant(name) for name in node.inputs if name)
