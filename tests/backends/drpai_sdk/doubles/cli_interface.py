"""Stands for drpai_quantizer.cli_interface: runs the model on the calibration tensors, takes minimum and maximum of
every tensor that it quantizes, and writes QuantizeLinear and DequantizeLinear there.

Files beside the tools' folders say which failure to play; see run_translator.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def setting(name: str, default: str = "") -> str:
    path = ROOT / name
    return path.read_text().strip() if path.exists() else default


def main() -> int:
    parser = argparse.ArgumentParser(prog="cli_interface", description="DRP-AI Quantizer version 1.4.0")
    parser.add_argument("--calibrate_method", choices=("MinMax", "Percentile"))
    parser.add_argument("--input_model_path", required=True)
    parser.add_argument("--output_model_path", required=True)
    parser.add_argument("--tvm", action="store_true")
    parser.add_argument("-az", nargs="?", const="True")
    if setting("quantizer_without_opts"):
        parser.add_argument("exclude", nargs="*")
    else:
        parser.add_argument("--opts", nargs="+")  # as argparse has it: the last one alone is honoured
    given = parser.parse_args()
    plays = setting("plays_quantizer")
    with (ROOT / "calls").open("a") as file:
        variables = {name: os.environ.get(name) for name in ("PRODUCT", "PYTHONPATH")}
        file.write(json.dumps({"tool": "quantizer", "argv": sys.argv[1:], "cwd": os.getcwd(), **variables}) + "\n")
    if plays == "fails":
        print("RuntimeError: calibration data is empty")
        return 2
    if plays == "hangs":
        (ROOT / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    folder = Path(given.input_model_path)
    if not (folder.is_absolute() and Path(given.output_model_path).is_absolute()):
        parser.error("absolute paths are wanted")
    options = getattr(given, "opts", None) or given.exclude
    if options[-2:] != ["exclude_act_func_dir", "./exclude_operator"]:
        parser.error("exclude_act_func_dir is not given")
    asymmetric = "True" in (given.az, dict(zip(options[::2], options[1::2], strict=True)).get("activation_zeropoint"))
    quantized = quantize(folder, asymmetric)
    if plays == "garbage":
        Path(given.output_model_path).write_bytes(b"not a model")
        return 0
    if plays != "writes nothing":
        Path(given.output_model_path).write_bytes(quantized)
    return 1 if plays == "fails, but writes" else 0


def quantize(folder: Path, asymmetric: bool) -> bytes:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    frames = sorted((folder / "input").iterdir(), key=lambda path: int(path.stem.split("_")[1]))
    if not frames or len(list((folder / "output").iterdir())) == 0:
        raise SystemExit("calibration data is missing")
    made = {name for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    wanted = list(dict.fromkeys([*inputs, *(name for name in sorted(made))]))
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(made - present))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    count = 1 + max(int(path.stem.split("_")[1]) for path in frames)
    for index in range(count):
        feeds = {name: np.load(folder / "input" / f"{at}_{index}.npy") for at, name in enumerate(inputs)}
        values = {**feeds, **dict(zip(names, session.run(names, feeds), strict=True))}
        for name, value in values.items():
            if value.dtype == np.float32:
                low[name] = min(low.get(name, 0.0), float(value.min()))
                high[name] = max(high.get(name, 0.0), float(value.max()))
    nodes = []
    for node in graph.node:
        if node.op_type in QUANTIZED:
            for at, name in enumerate(list(node.input[:2])):
                if name in constants:
                    weights = constants[name]
                    rows = any(one.name == "transB" and one.i for one in node.attribute)
                    axis = 0 if node.op_type == "Conv" or rows else 1 if node.op_type == "ConvTranspose" else -1
                    along = tuple(i for i in range(weights.ndim) if i != axis % weights.ndim)
                    scale = (np.abs(weights).max(along) / np.float32(127)).astype(np.float32)
                    scale[scale == 0] = 1
                    shape = [1] * weights.ndim
                    shape[axis] = -1
                    integers = np.rint(weights / scale.reshape(shape)).astype(np.int8)
                    for suffix, value in (("_q", integers), ("_s", scale), ("_z", np.zeros(scale.shape, np.int8))):
                        graph.initializer.append(numpy_helper.from_array(value, name + suffix))
                    nodes.append(
                        helper.make_node(
                            "DequantizeLinear", [name + "_q", name + "_s", name + "_z"], [name + "_dq"],
                            axis=axis % weights.ndim,
                        )
                    )  # fmt: skip
                    node.input[at] = name + "_dq"
        nodes.append(node)
    readers = [name for node in graph.node for name in node.input]
    pairs: dict[str, str] = {}
    result = []

    def pair(name: str) -> None:
        if asymmetric:
            scale = np.float32((high[name] - low[name]) / 255)
            point = round(-128 - low[name] / float(scale)) if scale else 0
        else:
            scale, point = np.float32(max(high[name], -low[name]) / 127), 0
        scale = scale if scale > 0 else np.float32(1)
        graph.initializer.append(numpy_helper.from_array(np.asarray(scale), name + "/s"))
        graph.initializer.append(numpy_helper.from_array(np.asarray(point, np.int8), name + "/z"))
        parameters = [name + "/s", name + "/z"]
        result.append(helper.make_node("QuantizeLinear", [name, *parameters], [name + "/q"]))
        result.append(helper.make_node("DequantizeLinear", [name + "/q", *parameters], [name + "/dq"]))
        pairs[name] = name + "/dq"

    ends = {node.input[0] for node in graph.node if node.op_type == "Clip"}
    for name in inputs:
        if name not in ends:  # the range is the Clip's
            pair(name)
    outputs = {value.name for value in graph.output}
    for node in nodes:
        for at, name in enumerate(node.input):
            node.input[at] = pairs.get(name, name)
        result.append(node)
        name = node.output[0]
        if node.op_type != "DequantizeLinear" and name not in ends and name in low and name in wanted:
            if name in outputs:  # the pair takes the output's name
                node.output[0] = name + "/raw"
                low[name + "/raw"], high[name + "/raw"] = low[name], high[name]
                pair(name + "/raw")
                result[-1].output[0] = name
                pairs.pop(name + "/raw")
            elif name in readers:
                pair(name)
    del graph.node[:]
    graph.node.extend(result)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return model.SerializeToString()


if __name__ == "__main__":
    sys.exit(main())
