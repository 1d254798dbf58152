"""Why a layer is not in integers, and what to change in training: one table for all reasons that are given.

A reason is text that lowering, the backends and preprocess write; a remedy is found by what the text says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from drpai_qat.core.moving import MOVING
from drpai_qat.report.layers import Layer


@dataclass(frozen=True)
class Remedy:
    """What to do about a reason.

    Attributes:
        key: names it.
        why: what the reason means.
        pytorch, tensorflow: what to change, by the framework that trained the model; "" for nothing.
        code: of `pytorch`; "" for none.
    """

    key: str
    why: str
    pytorch: str
    tensorflow: str
    code: str = ""

    def what(self, qat_type: str) -> str:
        """What to change in a model of this framework."""
        return self.tensorflow if qat_type == "tensorflow" else self.pytorch


_TF_RANGE = (
    "Annotate the layer in front with tfmot (quantize_annotate_layer with a QuantizeConfig that quantizes its output), "
    "or "
    "wrap the whole model in quantize_model."
)

INPUT = Remedy(
    "input",
    "The layer reads the network's input, and training put no fake-quant there. Without a range the input can't be "
    "rounded "
    "to integers, so the layer multiplies int8 weights with float32.",
    "Put a QuantStub at the input, before prepare_qat.",
    "Let tfmot quantize the input: quantize_model does (its QuantizeLayer); with quantize_annotate_layer put a "
    "QuantizeLayer, "
    "or a layer of an 8-bit config, in front.",
    "self.quant = torch.ao.quantization.QuantStub()\n\ndef forward(self, x):\n    x = self.quant(x)\n    ...",
)
SUM = Remedy(
    "sum",
    "The layer reads a sum that training left without a fake-quant.",
    "Add with FloatFunctional, which has an observer, instead of with +.",
    _TF_RANGE.replace("the layer in front", "the Add layer"),
    "self.skip = torch.ao.nn.quantized.FloatFunctional()\n\nreturn self.skip.add(x, y)        # instead of x + y",
)
PRODUCT = Remedy(
    "product",
    "The layer reads an elementwise product that training left without a fake-quant.",
    "Multiply with FloatFunctional, which has an observer, instead of with *.",
    _TF_RANGE.replace("the layer in front", "the Multiply layer"),
    "self.gate = torch.ao.nn.quantized.FloatFunctional()\n\nreturn self.gate.mul(x, y)        # instead of x * y",
)
FUNCTION = Remedy(
    "function",
    "The layer reads an activation function (SiLU, GELU, Hardswish ...) behind which training put no fake-quant: eager "
    "QAT observes ReLU and the layers with weights, and leaves these out.",
    "Give its result an observer: a QuantStub behind the function.",
    _TF_RANGE.replace("the layer in front", "the Activation layer"),
    "self.requant = torch.ao.quantization.QuantStub()\n\nx = self.requant(self.act(x))",
)
CONCAT = Remedy(
    "concat",
    "The layer reads a concatenation that training left without a fake-quant.",
    "Concatenate with FloatFunctional, which has an observer, instead of with torch.cat.",
    _TF_RANGE.replace("the layer in front", "the Concatenate layer"),
    "self.join = torch.ao.nn.quantized.FloatFunctional()\n\nreturn self.join.cat([x, y], 1)   # instead of torch.cat",
)
ATTENTION = Remedy(
    "attention",
    "A product of two activations needs a range for both, and one has none.",
    "Multiply with FloatFunctional.matmul, and put a QuantStub behind whatever makes an operand without an observer "
    "(Softmax, scaling, slicing of a projection).",
    _TF_RANGE.replace("the layer in front", "the layers that make both operands"),
    "self.scores = torch.ao.nn.quantized.FloatFunctional()\n\nattention = self.scores.matmul(q, k.transpose(-2, -1))",
)
RANGE = Remedy(
    "range",
    "The layer reads a tensor that training left without a fake-quant, and no operator bounds it.",
    "Give the tensor an observer: a QuantStub in front of the layer, or a qconfig on the module that makes the tensor.",
    _TF_RANGE,
    "self.requant = torch.ao.quantization.QuantStub()\n\nx = self.layer(self.requant(x))",
)
EDGE = Remedy(
    "edge",
    "The network takes and gives float32. This step lies between that and the integers inside, or behind them.",
    "",
    "",
)
RESULT = Remedy(
    "result",
    "Its input is in integers, but nothing says how to round its result: training put no fake-quant behind it, and an "
    "average "
    "has finer steps than its input.",
    "Nothing, if it is small, as a pooling in front of the classifier is. Else give it an observer: a QuantStub behind "
    "it.",
    "Nothing, if it is small, as a pooling in front of the classifier is. Else annotate it, so that its output is "
    "quantized.",
    "x = self.requant(self.pool(x))    # self.requant = torch.ao.quantization.QuantStub()",
)
BOUNDED = Remedy(
    "bounded",
    "The sum has no trained range. Its operands bound it, so that it could be read by its 8-bit parts, but on this CPU "
    "float32 "
    "is the faster of the two.",
    "Add with FloatFunctional, whose observer gives the sum a range of 8 bits.",
    _TF_RANGE.replace("the layer in front", "the Add layer"),
    SUM.code,
)
OVERFLOW = Remedy(
    "overflow",
    "It adds up so many products that their sum could leave 32 bits.",
    "Nothing is wrong with the training. Splitting the layer into groups, or fewer input channels, would make it fit.",
    "Nothing is wrong with the training. Splitting the layer, or fewer input channels, would make it fit.",
)
NORMALIZATION = Remedy(
    "normalization",
    "It divides by what it computes from the data (a mean, a variance, a sum of exponentials): that part is computed "
    "in float32, "
    "from integers and back to integers.",
    "Nothing: this is how it was trained. A batch norm instead of a layer norm would disappear into the convolution.",
    "Nothing: this is how it was trained. A batch norm instead of a layer norm would disappear into the convolution.",
)
KERNEL = Remedy(
    "kernel",
    "There is no integer kernel for this operator, so TVM's own float32 one runs; it is slow.",
    "Replace the operator with one that has a kernel (docs/lowering.md lists them), or end the network before it with "
    "--outputs and compute the rest in the application.",
    "Replace the operator with one that has a kernel (docs/lowering.md lists them), or end the network before it with "
    "--outputs and compute the rest in the application.",
)
TFLITE = Remedy(
    "tflite",
    "TFLite's integer operators can't express this one faithfully; --allow-float lets it be float32.",
    "Change the layer to what TFLite has in integers (docs/tflite.md lists what differs), or compile for a CPU target "
    "instead.",
    "Change the layer to what TFLite has in integers (docs/tflite.md lists what differs), or compile for a CPU target "
    "instead.",
)
TFLITE_RANGE = Remedy(
    "tflite-range",
    "TFLite needs a range for every tensor, and training left this one without; no operator bounds it.",
    "Give the tensor an observer in training (QuantStub, FloatFunctional), or the compiler real inputs with --samples.",
    f"{_TF_RANGE} Or give the compiler real inputs with --samples.",
)
WEIGHTS = Remedy(
    "weights",
    "Its weights have no grid of 8 bits: they stay float32.",
    "Give the layer a weight_fake_quant: convert it with prepare_qat, with a qconfig whose weights are qint8, per "
    "tensor or per "
    "output channel.",
    "Annotate the layer, so that tfmot quantizes its weights: in 8 bits, per tensor or per output channel.",
)
AXIS = Remedy(
    "axis",
    "Its weights have a scale for each input channel; products can be added up in integers only where one scale holds "
    "for all that goes into one output.",
    "Observe the weights along the output channels: ch_axis=0 for convolutions and Linear, 1 for ConvTranspose.",
    "Quantize the weights along the last axis, which is that of the output channels, or per tensor.",
)
ACTIVATION = Remedy(
    "activation",
    "An activation's grid has a form that no integer kernel takes (one scale per channel or block, or two different "
    "grids for "
    "one tensor).",
    "Use an observer with one scale per tensor for activations (torch.per_tensor_affine).",
    "Use a quantizer with one range per tensor for activations.",
)
OTHER = Remedy(
    "other",
    "The compiler gave the reason above; nothing more is known of it.",
    "Make sure that a fake-quant stands in front of the layer and behind it.",
    "Make sure that the layer and the one in front of it are annotated.",
)

_BY_PRODUCER = {
    "Function": FUNCTION,
    **dict.fromkeys(("Add", "Sum", "Sub"), SUM),
    "Mul": PRODUCT,
    "Concat": CONCAT,
    **dict.fromkeys(("MatMul", "Softmax"), ATTENTION),
}
_ROUNDINGS = ("Quantize", "Dequantize", "QuantizeLinear", "DequantizeLinear")
_LIMITS = frozenset(("Relu", "Clip", "Min", "Max"))
_FUNCTIONS = frozenset(
    ("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Softplus", "Mish", "Elu", "Swish")
)

_PATTERNS: tuple[tuple[str, Remedy], ...] = (
    (r"bounded, but float32 is faster", BOUNDED),
    (r"network's (input|output) is float32", EDGE),
    (r"its output has no trained range", RESULT),
    (r"scales along another axis|runs along other channels", AXIS),
    (r"no trained range and no bound", TFLITE_RANGE),
    (r"(has|have) no trained range", RANGE),
    (r"accumulators could leave int32", OVERFLOW),
    (r"computed in float32 between", NORMALIZATION),
    (r"^\w+ has no integer kernel", KERNEL),
    (
        r"weights stay float32|weights don't fit int8|weights (have no (trained|integer) grid|were not quantized)",
        WEIGHTS,
    ),
    (r"block-wise scales", WEIGHTS),
    (r"block-wise activation|per-channel activation|another grid than was written", ACTIVATION),
    (r"TFLite|degenerate|does not exist in|is no step of|has no trained grid", TFLITE),
    (r"^its .* (is|are) (computed|left out|read|float32|int16)", TFLITE),
)


def remedy(layer: Layer, layers: Sequence[Layer]) -> Remedy:
    """What to do about a layer that is not in integers.

    Args:
        layers: all of the network.
    """
    makers = [_maker(one, layers) for one in layer.inputs]
    found = of_reason(layer.reason) if layer.reason else _without_reason(layer, makers)
    if found is EDGE and layer.op not in _ROUNDINGS and None in makers:
        return INPUT
    if found is not RANGE:
        return found
    if None in makers:
        return INPUT
    if layer.op == "MatMul" and len(makers) > 1:
        return ATTENTION
    ops = [_last(one) for one in makers if one is not None and one.grid is None]
    return next((_BY_PRODUCER[op] for op in ops if op in _BY_PRODUCER), RANGE)


def _without_reason(layer: Layer, makers: Sequence[Layer | None]) -> Remedy:
    """Of a layer whose backend gives none."""
    if layer.op in _ROUNDINGS:
        return EDGE
    if layer.compute == "tvm":
        return KERNEL
    return RESULT if any(one is not None and one.grid is not None for one in makers) else RANGE


def _maker(index: int, layers: Sequence[Layer]) -> Layer | None:
    """The layer that computes what another reads, in front of those that only move it; None: a network input."""
    while index >= 0:
        layer = layers[index]
        if layer.op not in MOVING or layer.op == "Concat" or layer.grid is not None:
            return layer
        index = layer.inputs[0] if layer.inputs else -1
    return None


def _last(layer: Layer) -> str:
    """What computes a layer's result, but for the ReLU behind it; "Function" for one written with several operators."""
    ops = [op for op in (layer.op, *layer.fused) if op not in _LIMITS]
    if ops and (ops[-1] in _FUNCTIONS or (ops[-1] == "Mul" and _FUNCTIONS & set(ops))):
        return "Function"
    return ops[-1] if ops else ""


def of_reason(reason: str) -> Remedy:
    """What to do about a reason alone."""
    return next((one for pattern, one in _PATTERNS if re.search(pattern, reason)), OTHER)


ALL: tuple[Remedy, ...] = (
    INPUT, SUM, PRODUCT, FUNCTION, CONCAT, ATTENTION, RANGE, EDGE, RESULT, BOUNDED, OVERFLOW, NORMALIZATION, KERNEL,
    TFLITE, TFLITE_RANGE, WEIGHTS, AXIS, ACTIVATION, OTHER,
)  # fmt: skip
"""Every remedy, for docs/report.md."""
