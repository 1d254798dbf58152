"""Write a TensorFlow QAT model as ONNX: freeze it, convert it by tf2onnx, compare the file with the framework."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.core.quiet import quiet
from drpai_qat.export.comparison import Exported, compare
from drpai_qat.export.tensorflow_fake_quant import OF_ONNXRUNTIME, FakeQuants, drop_idle_axes, put_weights
from drpai_qat.export.tensorflow_model import Network, network_of
from drpai_qat.export.writing import staged

_OPSETS = range(13, 19)
_BY_XLA, _INLINED = "_XlaMustCompile", "_inlined"
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def export(
    model: Any,
    path: Path,
    *,
    example_inputs: Any,
    opset: int,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> Exported:
    """See `drpai_qat.export.tensorflow`."""
    if opset not in _OPSETS:
        raise OptionError(f"opset {opset}: tf2onnx writes {_OPSETS.start} to {_OPSETS.stop - 1}")
    example = None if example_inputs is None else [np.asarray(one) for one in tf.nest.flatten(example_inputs)]
    with staged(path) as written:
        with quiet():
            network = network_of(model, example_inputs).at(example)
            function = _traced(network)
            converted, quantized = _convert(function, network, opset, input_names, output_names)
        onnx.save(converted, written)
        arrays = example or _random_inputs(network, converted)
        with quiet(), tf.device("/cpu:0"):
            expected = [one.numpy() for one in function(*(tf.constant(array) for array in arrays))]
        difference = compare(written, arrays, expected)
    notes = [*quantized.notes, *_notes_on_float(converted)]
    if example is None:
        notes.append("compared on random inputs; example_inputs compares on real ones")
    return Exported(path, "tf2onnx", difference.max_error, difference.sqnr_db, tuple(notes), difference.max_steps)


def _traced(network: Network) -> Any:
    @tf.function(input_signature=network.inputs, autograph=False)  # type: ignore[untyped-decorator]
    def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
        return [tf.identity(one) for one in network.call(*tensors)]  # an output may be an input, or come twice

    try:
        return run.get_concrete_function()
    except Exception as error:  # whatever the model raises
        taken = ", ".join(f"{one.name} {one.dtype.name}{one.shape.as_list()}" for one in network.inputs)
        raise ModelError(f"the model can't be called with {taken}: {_last_line(error)}") from error


def _convert(
    function: Any,
    network: Network,
    opset: int,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> tuple[onnx.ModelProto, FakeQuants]:
    """Convert a concrete function; returns the model, its weights quantized, and what became of its fake-quants."""
    frozen = _inlined(convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True))
    graph_def = frozen.graph.as_graph_def(add_shapes=True)
    quantized = FakeQuants()
    quantized.take_weights(graph_def)
    inputs = [one.name for one in frozen.inputs]
    outputs = [one.name for one in frozen.outputs]
    names = _names("input", input_names, [one.name for one in network.inputs], len(inputs))
    names += _names("output", output_names, network.output_names, len(outputs))
    with _failures() as failures:
        try:
            converted, _ = tf2onnx.convert.from_graph_def(
                graph_def,
                name="network",
                input_names=inputs + [f"{name}:0" for name in quantized.weights],
                output_names=outputs,
                opset=opset,
                extra_opset=[onnx.helper.make_opsetid(OF_ONNXRUNTIME, 1)],
                custom_op_handlers=quantized.handlers(),
                tensors_to_rename=dict(zip(inputs + outputs, names, strict=True)),
            )
        except Exception as error:  # it fails in as many ways as models differ; the reason is kept
            failures.append(_last_line(error))
    if quantized.errors or failures:
        reasons = quantized.errors or failures
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise ModelError(f"tf2onnx can't convert this model: {'; '.join(reasons[:3])}{more}")
    if not any(node.domain == OF_ONNXRUNTIME for node in converted.graph.node):
        kept = [one for one in converted.opset_import if one.domain != OF_ONNXRUNTIME]
        del converted.opset_import[:]
        converted.opset_import.extend(kept)
    put_weights(converted, quantized.weights)
    drop_idle_axes(converted)
    return converted, quantized


def _inlined(frozen: Any) -> Any:
    """The frozen function without calls of others: TensorFlow leaves those that it was told to compile by XLA.

    Keras writes such a call for every grouped convolution.
    """
    graph_def = frozen.graph.as_graph_def()
    if not any("PartitionedCall" in node.op for node in graph_def.node):
        return frozen
    for nodes in (graph_def.node, *(one.node_def for one in graph_def.library.function)):
        for node in nodes:
            node.attr.pop(_BY_XLA, None)
            for attribute in node.attr.values():
                if attribute.HasField("func"):
                    attribute.func.name += _INLINED
    for one in graph_def.library.function:
        one.attr.pop(_BY_XLA, None)
        one.signature.name += _INLINED  # TensorFlow knows the name with the other definition
    free = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
    inputs, outputs = (
        [free.graph.get_tensor_by_name(one.name) for one in tensors] for tensors in (frozen.inputs, frozen.outputs)
    )
    return convert_variables_to_constants_v2(
        free.prune(inputs, outputs), lower_control_flow=False, aggressive_inlining=True
    )


@contextmanager
def _failures() -> Iterator[list[str]]:
    """What tf2onnx could not convert: it logs that and writes a file all the same."""
    found: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().splitlines()[0]
            if "is not supported" in text or text.startswith("Failed to convert"):
                found.append(text)

    handler, logger = Collecting(), logging.getLogger("tf2onnx")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _notes_on_float(converted: onnx.ModelProto) -> list[str]:
    """Say what has no fake-quant: the whole model, or the weights of single layers."""
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in converted.graph.node):
        return ["no fake-quant in this model: exported in float32; quantize_model and train first for INT8"]
    constants = {one.name for one in converted.graph.initializer}
    layers = [node for node in converted.graph.node if node.op_type in _LAYERS]
    plain = [node.name for node in layers if node.input[1] in constants]
    if not plain:
        return []
    return [
        f"{len(plain)} of {len(layers)} layers have no fake-quant on their weights and stay float32, first {plain[0]} "
        "(tfmot skips a Conv2D whose ReLU is a layer of its own: give it activation='relu', or batch norm between them)"
    ]


def _random_inputs(network: Network, converted: onnx.ModelProto) -> list[NDArray[Any]]:
    """Inputs to compare on: over the trained range where the input has one, else normal; integers are zero."""
    random = np.random.default_rng(0)
    values = {one.name: numpy_helper.to_array(one) for one in converted.graph.initializer}
    ranges = {node.input[0]: node.input[1:3] for node in converted.graph.node if node.op_type == "QuantizeLinear"}
    arrays = []
    for one, node in zip(network.inputs, converted.graph.input, strict=True):
        shape = one.shape.as_list()
        if not one.dtype.is_floating:
            array = np.zeros(shape)
        elif node.name in ranges:
            scale, zero_point = (values[name].astype(np.float64) for name in ranges[node.name])
            array = random.uniform(-zero_point * scale, (255 - zero_point) * scale, shape)
        else:
            array = random.normal(size=shape)
        arrays.append(array.astype(one.dtype.as_numpy_dtype))
    return arrays


def _names(stem: str, given: Sequence[str] | None, own: list[str] | None, count: int) -> list[str]:
    """Names for the graph: given ones, else the model's own, which may come twice or miss, else made ones."""
    if given is not None and len(set(given)) != count:
        raise OptionError(f"{stem}_names: {', '.join(given)} for {count} {stem}s; give as many, each once")
    for names in (given, own):
        if names is not None and len(names) == len(set(names)) == count:
            return list(names)
    return [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__
