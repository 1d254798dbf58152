"""Export QAT models from the training frameworks, so that they compile.

    from drpai_qat import export

    print(export.pytorch(model, torch.rand(1, 3, 224, 224), "QAT_resnet50_fp32.onnx"))
    print(export.tensorflow(model, "QAT_resnet50_fp32.onnx"))

The frameworks are imported only when their function is called.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drpai_qat.core.errors import MissingExtraError
from drpai_qat.export.comparison import Exported

__all__ = ["Exported", "pytorch", "tensorflow"]


def pytorch(
    model: Any,
    example_inputs: Any,
    path: str | Path,
    *,
    opset: int = 13,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = False,
) -> Exported:
    """Export a PyTorch QAT model to ONNX and compare it with the framework on the example.

    The model itself stays as it is: a copy on the CPU is put into evaluation mode with its observers off. Every kind of
    fake-quant module of torch.ao and torchao is written as QuantizeLinear, Clip (where the range is narrower than the
    type) and DequantizeLinear, the fused observer module included, which has no ONNX form of its own.

    Args:
        model: eager, FX or PT2E model prepared for QAT, or one converted to integers; on any device, in any precision,
            in DataParallel or torch.compile's wrapper or not. It may return tuples, lists and dicts of tensors.
        example_inputs: a tensor, the tuple of the model's inputs, or a dict of its keyword arguments; of the batch to
            deploy. What is no tensor (None, a flag) becomes part of the exported graph.
        path: the .onnx file to write; its folder must exist. Written only if export and comparison succeed.
        opset: ONNX operator set, 13 or later.
        input_names: default `input`, or `input_0`, `input_1` ..., or the dict's keys.
        output_names: default `output`, or `output_0`, `output_1` ..., or the keys of the dict that the model returns.
        dynamic_batch: leave the first dimension of inputs and outputs open.
    Returns: what was written, by which exporter, and its difference from the framework's own output.
    Raises:
        MissingExtraError: PyTorch is not installed.
        ModelError: no fake-quant, a range that never saw data, a model that does not run on the example, or what
            neither of PyTorch's exporters takes.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("exporting a PyTorch model needs PyTorch: pip install 'drpai-qat[pytorch]'")
    from drpai_qat.export.torch_export import export

    return export(
        model,
        example_inputs,
        Path(path),
        opset=opset,
        input_names=input_names,
        output_names=output_names,
        dynamic_batch=dynamic_batch,
    )


def tensorflow(
    model: Any,
    path: str | Path,
    *,
    example_inputs: Any = None,
    opset: int = 13,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Exported:
    """Export a TensorFlow QAT model to ONNX through tf2onnx and compare it with the framework.

    The model stays as it is; what is exported is its evaluation mode at fixed shapes, with the inputs and outputs it
    has (NHWC). Fake-quantized weights are written as int8 with DequantizeLinear (per channel where they were trained
    so), activations as QuantizeLinear, Clip (where the range is narrower than uint8) and DequantizeLinear. A model
    without fake-quant is exported in float32, and the notes say so.

    Args:
        model: tf_keras model (functional, sequential or subclassed) after tfmot's `quantize_model` or `quantize_apply`,
            or with fake-quant operators of its own; an object of `tf.saved_model.load`; the path of a .h5 or SavedModel
            (tfmot's layers don't load from the .keras format).
        path: the .onnx file to write; its folder must exist. Written only if export and comparison succeed.
        example_inputs: an array, or the structure of arrays that the model takes, of the shapes to deploy. Default:
            a batch of one, compared on random values over the input's trained range.
        opset: ONNX operator set, 13 to 18.
        input_names: default those of the model.
        output_names: default those of the model.
    Returns: what was written, and its difference from the framework's own output.
    Raises:
        MissingExtraError: TensorFlow, tfmot or tf2onnx is not installed.
        ModelError: a Keras 3 model or none at all, open dimensions, a range that never saw data, or what tf2onnx can't
            convert.
        DeploymentError: the path can't be written.
        OptionError: another operator set, or another number of names than of inputs or outputs.
    """
    for package in ("tensorflow", "tf_keras", "tensorflow_model_optimization", "tf2onnx"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"exporting a TensorFlow model needs {package}, which is missing: pip install 'drpai-qat[tensorflow]'"
            )
    from drpai_qat.export.tensorflow_export import export

    return export(
        model,
        Path(path),
        example_inputs=example_inputs,
        opset=opset,
        input_names=input_names,
        output_names=output_names,
    )
