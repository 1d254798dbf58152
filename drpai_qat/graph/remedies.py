"""Why a layer is not in integers, and what to change: one table, for reports and for `drpai-qat inspect`.

A reason is text that lowering, the backends and preprocess write; a remedy is found by what the text says. Training can
be changed where there was some: a model that was quantized after training has texts of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Remedy:
    """What to do about a reason.

    Attributes:
        key: names it.
        why: what the reason means.
        pytorch, tensorflow: what to change, by the framework that trained the model; "" for nothing.
        code: of `pytorch`; "" for none.
        brief: of `pytorch`, in a few words: what gives the tensor a range.
        calibrated: why and what of a model that was quantized after training, where training is not the cause.
    """

    key: str
    why: str
    pytorch: str
    tensorflow: str
    code: str = ""
    brief: str = "a QuantStub behind it"
    calibrated: tuple[str, str] | None = None

    def because(self, qat_type: str) -> str:
        """What the reason means for a model of this kind: "pytorch", "tensorflow" or "float"."""
        return self.calibrated[0] if qat_type == "float" and self.calibrated is not None else self.why

    def what(self, qat_type: str) -> str:
        """What to change in a model of this kind."""
        if qat_type == "float" and self.calibrated is not None:
            return self.calibrated[1]
        return self.tensorflow if qat_type == "tensorflow" else self.pytorch

    def range_from(self, framework: str) -> str:
        """What gives the tensor a range in training, in a few words of "PyTorch", "TensorFlow" or neither."""
        at_input = self.key == "input"
        if framework == "TensorFlow":
            annotated = "tfmot's quantize_annotate_layer on that layer, with a QuantizeConfig for its output"
            return "tfmot's quantize_model, which puts a QuantizeLayer at the input" if at_input else annotated
        if framework == "PyTorch":
            return self.brief
        return "a fake-quant at the network's input" if at_input else "a fake-quant behind it"


def told(reason: str, qat_type: str) -> str:
    """A reason as it is told: where nothing was trained, no range was."""
    return reason.replace("no trained", "no") if qat_type == "float" else reason


_UNCALIBRATED = (
    "Calibration gives a range to what layers with weights multiply and to what is stored between two kernels. This "
    "step reads or gives a tensor that is neither, or one in which the data held no finite value (a warning names it).",
    "Nothing, if it is small. Else train quantization-aware, with a fake-quant there.",
)
_NOT_QUANTIZED = (
    "Calibration left its weights in float32: they are not constant, or no grid of 8 bits holds them.",
    "Make the weights constants of the file, finite ones.",
)


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
    brief="a QuantStub at the network's input",
    calibrated=_UNCALIBRATED,
)
SUM = Remedy(
    "sum",
    "The layer reads a sum that training left without a fake-quant.",
    "Add with FloatFunctional, which has an observer, instead of with +.",
    _TF_RANGE.replace("the layer in front", "the Add layer"),
    "self.skip = torch.ao.nn.quantized.FloatFunctional()\n\nreturn self.skip.add(x, y)        # instead of x + y",
    brief="FloatFunctional.add in place of +",
    calibrated=_UNCALIBRATED,
)
PRODUCT = Remedy(
    "product",
    "The layer reads an elementwise product that training left without a fake-quant.",
    "Multiply with FloatFunctional, which has an observer, instead of with *.",
    _TF_RANGE.replace("the layer in front", "the Multiply layer"),
    "self.gate = torch.ao.nn.quantized.FloatFunctional()\n\nreturn self.gate.mul(x, y)        # instead of x * y",
    brief="FloatFunctional.mul in place of *",
    calibrated=_UNCALIBRATED,
)
FUNCTION = Remedy(
    "function",
    "The layer reads an activation function (SiLU, GELU, Hardswish ...) behind which training put no fake-quant: eager "
    "QAT observes ReLU and the layers with weights, and leaves these out.",
    "Give its result an observer: a QuantStub behind the function.",
    _TF_RANGE.replace("the layer in front", "the Activation layer"),
    "self.requant = torch.ao.quantization.QuantStub()\n\nx = self.requant(self.act(x))",
    calibrated=_UNCALIBRATED,
)
CONCAT = Remedy(
    "concat",
    "The layer reads a concatenation that training left without a fake-quant.",
    "Concatenate with FloatFunctional, which has an observer, instead of with torch.cat.",
    _TF_RANGE.replace("the layer in front", "the Concatenate layer"),
    "self.join = torch.ao.nn.quantized.FloatFunctional()\n\nreturn self.join.cat([x, y], 1)   # instead of torch.cat",
    brief="FloatFunctional.cat in place of torch.cat",
    calibrated=_UNCALIBRATED,
)
ATTENTION = Remedy(
    "attention",
    "A product of two activations needs a range for both, and one has none.",
    "Multiply with FloatFunctional.matmul, and put a QuantStub behind whatever makes an operand without an observer "
    "(Softmax, scaling, slicing of a projection).",
    _TF_RANGE.replace("the layer in front", "the layers that make both operands"),
    "self.scores = torch.ao.nn.quantized.FloatFunctional()\n\nattention = self.scores.matmul(q, k.transpose(-2, -1))",
    brief="FloatFunctional.matmul in place of @",
    calibrated=_UNCALIBRATED,
)
RANGE = Remedy(
    "range",
    "The layer reads a tensor that training left without a fake-quant, and no operator bounds it.",
    "Give the tensor an observer: a QuantStub in front of the layer, or a qconfig on the module that makes the tensor.",
    _TF_RANGE,
    "self.requant = torch.ao.quantization.QuantStub()\n\nx = self.layer(self.requant(x))",
    calibrated=_UNCALIBRATED,
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
    calibrated=_UNCALIBRATED,
)
BOUNDED = Remedy(
    "bounded",
    "The sum has no trained range. Its operands bound it, so that it could be read by its 8-bit parts, but on this CPU "
    "float32 "
    "is the faster of the two.",
    "Add with FloatFunctional, whose observer gives the sum a range of 8 bits.",
    _TF_RANGE.replace("the layer in front", "the Add layer"),
    SUM.code,
    calibrated=_UNCALIBRATED,
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
    calibrated=_UNCALIBRATED,
)
WEIGHTS = Remedy(
    "weights",
    "Its weights have no grid of 8 bits: they stay float32.",
    "Give the layer a weight_fake_quant: convert it with prepare_qat, with a qconfig whose weights are qint8, per "
    "tensor or per "
    "output channel.",
    "Annotate the layer, so that tfmot quantizes its weights: in 8 bits, per tensor or per output channel.",
    calibrated=_NOT_QUANTIZED,
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
    calibrated=("The compiler gave the reason above; nothing more is known of it.", ""),
)

_BY_MAKER = {"": INPUT, "Add": SUM, "Sum": SUM, "Mul": PRODUCT, "Concat": CONCAT, "MatMul": ATTENTION}

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


def of_reason(reason: str) -> Remedy:
    """What to do about a reason alone."""
    return next((one for pattern, one in _PATTERNS if re.search(pattern, reason)), OTHER)


def of_maker(op: str) -> Remedy:
    """What to do about a tensor without a range that `op` computes; "": a network input."""
    return _BY_MAKER.get(op, RANGE)


ALL: tuple[Remedy, ...] = (
    INPUT, SUM, PRODUCT, FUNCTION, CONCAT, ATTENTION, RANGE, EDGE, RESULT, BOUNDED, OVERFLOW, NORMALIZATION, KERNEL,
    TFLITE, TFLITE_RANGE, WEIGHTS, AXIS, ACTIVATION, OTHER,
)  # fmt: skip
"""Every remedy, for docs/report.md."""
