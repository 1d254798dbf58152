"""The runtimes that `latency.py` compares, behind one call: feeds of one sample in, list of outputs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Feeds = dict[str, NDArray[np.float32]]
Run = Callable[[Feeds], list[NDArray[np.float32]]]

# Variables that keep a runtime from using more than AVX2; onnxruntime and LiteRT have none.
LIMIT_TO_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


INT16_SUMS = "int16_sums"
"""Folder, beside ours, of the network compiled with --sums int16, where that is asked for."""


TFLITE = "tflite"
"""Folder, beside ours, of the TFLite file that --target tflite writes, where that is asked for."""


class AbsentError(Exception):
    """The engine is not installed, or has no file of this model."""


def drpai_qat(folder: Path, threads: int) -> Run:
    """Ours, as a user loads it. TVM reads its thread count from the environment."""
    assert os.environ["TVM_NUM_THREADS"] == str(threads)
    from drpai_qat.runtimes.network import load

    network = load(folder)
    return lambda feeds: list(network.run(feeds).values())


def onnxruntime(model: Path, threads: int) -> Run:
    """onnxruntime on a file, with its default optimizations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def reference(model: Path, threads: int) -> Run:
    """onnxruntime on a file, without optimizations."""
    from drpai_qat.runtimes.onnxruntime import Reference

    session = Reference(model, model.name, threads=threads)
    return lambda feeds: list(session.run(feeds).values())


def openvino(model: Path, threads: int) -> Run:
    """OpenVINO reading the ONNX file, in its latency mode."""
    try:
        import openvino as ov
    except ImportError as error:
        raise AbsentError("pip install openvino") from error
    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(str(model), "CPU", config).create_infer_request()

    def run(feeds: Feeds) -> list[NDArray[np.float32]]:
        results = request.infer(feeds)
        return [results[i] for i in range(len(results))]

    return run


def litert_on_ours(folder: Path, threads: int) -> Run:
    """LiteRT (TensorFlow Lite with XNNPACK) on our INT8 file; float32 is rounded to its input's grid before."""
    from drpai_qat.runtimes.tflite import LiteNetwork

    (file,) = folder.glob("*_int8.tflite")
    network = LiteNetwork(file, threads=threads)
    return lambda feeds: list(network.run(feeds).values())


def litert(model: Path, threads: int) -> Run:
    """LiteRT on the .tflite beside the model; its images are NHWC."""
    file = model.with_suffix(".tflite")
    if not file.exists():
        raise AbsentError("no .tflite beside the model")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise AbsentError("pip install ai-edge-litert") from error
    interpreter = Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (source,), outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def run(feeds: Feeds) -> list[NDArray[np.float32]]:
        (value,) = feeds.values()
        if value.shape != tuple(source["shape"]) and value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        interpreter.set_tensor(source["index"], np.ascontiguousarray(value.reshape(source["shape"])))
        interpreter.invoke()
        return [interpreter.get_tensor(o["index"]) for o in outputs]

    return run


def engines(model: Path, folder: Path, threads: int) -> dict[str, Callable[[], Run]]:
    """Every engine by the name it has in the table; calling one loads the model."""
    coarse, lite = folder.with_name(INT16_SUMS), folder.with_name(TFLITE)
    return {
        "drpai-qat": lambda: drpai_qat(folder, threads),
        **({"with int16 sums": lambda: drpai_qat(coarse, threads)} if coarse.exists() else {}),
        "onnxruntime": lambda: onnxruntime(model, threads),
        "onnxruntime INT8": lambda: onnxruntime(folder / "model_int8.onnx", threads),
        "OpenVINO": lambda: openvino(model, threads),
        **({"our TFLite in LiteRT": lambda: litert_on_ours(lite, threads)} if lite.exists() else {}),
        "LiteRT": lambda: litert(model, threads),
    }
