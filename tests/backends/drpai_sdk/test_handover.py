"""A handover through a quantizer that takes minimum and maximum: the trained grids come back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from drpai_qat.cli.main import main
from drpai_qat.graph.canonical import read_graph
from preprocess import preprocess
from tests.reference import reference
from tests.small_models import qdq_model


def handed_over(source: Path, out: Path, *options: str) -> dict[str, Any]:
    assert main(["handover", str(source), "-a", "-m", "pytorch", "-o", str(out), "--quiet", *options]) == 0
    return json.loads((out / "ranges.json").read_text())


def quantized(sdk: Any, out: Path, *options: str) -> Path:
    """What the vendor's script would leave: the float model and the frames through the quantizer."""
    folder = sdk.root / "sub"
    shutil.copytree(out / "calibration", folder)
    shutil.copyfile(out / "model.onnx", folder / "model.onnx")
    result = sdk.root / "model_quantization.onnx"
    command = [sys.executable, "-m", "drpai_quantizer.cli_interface", "--input_model_path", str(folder)]
    command += ["--output_model_path", str(result), *options, "--opts", "exclude_act_func_dir", "./exclude_operator"]
    subprocess.run(command, cwd=sdk.quantizer, check=True)
    return result


def test_the_trained_grids_come_back(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    """All those of activations, and of weights whose every channel has one at 127 steps: no other has that scale."""
    source = models / "aimet_resnet_bn.onnx"
    content = handed_over(source, tmp_path / "out")
    assert len(content["ranges"]) == 13
    assert all(one["low_reached"] and one["high_reached"] and one["all_8_bits"] for one in content["ranges"])
    returned = quantized(sdk, tmp_path / "out", "-az", "True")
    assert main(["handover", str(source), "--returned", str(returned), "-a", "-m", "pytorch"]) == 3
    *lines, last = capsys.readouterr().out.splitlines()
    graph = read_graph(preprocess(onnx.load(source)).model)
    others = {
        name
        for node in graph.nodes
        if len(node.inputs) > 1 and (name := node.inputs[1]) in graph.weights
        if (
            np.abs(graph.weights[name].values.astype(int)).reshape(len(graph.weights[name].values), -1).max(1) != 127
        ).any()
    }
    assert {line.split(":")[0] for line in lines} == {f"weights {name}" for name in others}
    for line in lines:
        values = graph.weights[line.split(":")[0].removeprefix("weights ")].values.astype(int)
        largest = np.abs(values).reshape(len(values), -1).max(1)
        assert line.endswith(f", {(largest == 127).sum()} of {len(values)} channels as trained")
    assert last.startswith(f"{20 - len(others)} of 20 trained grids came back as trained")


def test_weights_come_back(sdk: Any, tmp_path: Path, capsys) -> None:
    source = tmp_path / "small.onnx"
    source.write_bytes(qdq_model().SerializeToString())
    handed_over(source, tmp_path / "out")
    returned = quantized(sdk, tmp_path / "out", "-az", "True")
    assert main(["handover", str(source), "--returned", str(returned)]) == 3
    *lines, last = capsys.readouterr().out.splitlines()
    content = json.loads((tmp_path / "out/ranges.json").read_text())
    missed = [one["tensor"] for one in content["ranges"] if not (one["low_reached"] and one["high_reached"])]
    assert 0 < len(missed) < 3
    assert [line.split(":")[0] for line in lines] == [f"activation {name}" for name in missed]
    assert last == f"{4 - len(missed)} of 4 trained grids came back as trained; {len(missed)} changed"


def test_and_with_them_what_was_trained(sdk: Any, models: Path, tmp_path: Path) -> None:
    """The network that comes back computes what the source computes; without the Clips' ranges it would not."""
    source = models / "aimet_resnet_bn.onnx"
    handed_over(source, tmp_path / "out")
    frames = [np.load(path) for path in sorted((tmp_path / "out/calibration/input").iterdir())]
    model = onnx.load(quantized(sdk, tmp_path / "out", "-az", "True"))
    name = onnx.load(source).graph.input[0].name
    for frame in frames[:3]:
        (wanted,), (found,) = (reference(one, {name: frame}) for one in (onnx.load(source), model))
        error = float(np.abs(wanted - found).max())
        assert error <= 0.05 * float(np.abs(wanted).max()), error


def test_ranges_of_fewer_steps_come_back_finer(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    """reduce_range trains 127 steps, and minimum and maximum become 255: the ends are kept, the steps are not."""
    source = models / "pt_nofold_resnet.onnx"
    content = handed_over(source, tmp_path / "out")
    assert not any(one["all_8_bits"] for one in content["ranges"])
    assert all(one["low_reached"] and one["high_reached"] for one in content["ranges"])
    returned = quantized(sdk, tmp_path / "out", "-az", "True")
    assert main(["handover", str(source), "--returned", str(returned)]) == 3
    lines = capsys.readouterr().out.splitlines()
    activations = [line for line in lines if line.startswith("activation ")]
    assert len(activations) == 10
    assert all(line.endswith("(finer, over the same range)") for line in activations)
    assert lines[-1].endswith(", 10 of them finer over the same range")


def test_each_difference_is_told(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    """Symmetric activations are no grid of an asymmetric training: all of them are named, and the status is 3."""
    source = models / "aimet_resnet_bn.onnx"
    handed_over(source, tmp_path / "out")
    returned = quantized(sdk, tmp_path / "out")
    assert main(["handover", str(source), "--returned", str(returned)]) == 3
    lines = capsys.readouterr().out.splitlines()
    activations = [line for line in lines if line.startswith("activation ")]
    assert len(activations) == 13
    assert all("trained scale" in line and "came back scale" in line for line in activations)
    assert " of 20 trained grids came back as trained; " in lines[-1]


def test_what_the_folder_says(tmp_path: Path) -> None:
    source = tmp_path / "small.onnx"
    source.write_bytes(qdq_model().SerializeToString())
    out = tmp_path / "out"
    np.savez(tmp_path / "real.npz", x=np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32))
    content = handed_over(source, out, "--samples", str(tmp_path / "real.npz"), "-n", "2")
    assert [(one["scale"], one["zero_point"]) for one in content["ranges"]] == [
        pytest.approx((0.02, 128)), pytest.approx((0.05, 0)), pytest.approx((0.1, 0)),
    ]  # fmt: skip
    assert content["ranges"][0]["low_reached"]
    frames = sorted(path.name for path in (out / "calibration/input").iterdir())
    assert frames[:2] == ["0_0.npy", "0_1.npy"]
    assert len(frames) == len(list((out / "calibration/output").iterdir())) >= 2
    readme = (out / "README.md").read_text()
    assert "small.onnx" in readme
    assert str(tmp_path) not in readme
    assert "`y`: no frame reaches its lower" in readme
    float_output = reference(onnx.load(out / "model.onnx"), {"x": np.load(out / "calibration/input/0_1.npy")})[0]
    np.testing.assert_array_equal(np.load(out / "calibration/output/0_1.npy"), float_output)


def test_nothing_is_written_on_top_of_something_else(tmp_path: Path, capsys) -> None:
    source = tmp_path / "small.onnx"
    source.write_bytes(qdq_model().SerializeToString())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    assert main(["handover", str(source), "-o", str(tmp_path / "out"), "--quiet"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_garbage_is_named(tmp_path: Path, capsys) -> None:
    source = tmp_path / "small.onnx"
    source.write_bytes(qdq_model().SerializeToString())
    (tmp_path / "returned.onnx").write_bytes(b"not a model")
    assert main(["handover", str(source), "--returned", str(tmp_path / "returned.onnx"), "--quiet"]) == 1
    assert "returned.onnx: is no ONNX model" in capsys.readouterr().err
    assert main(["handover", str(source), "-a", "--quiet"]) == 2


def test_the_network_ends_where_the_user_says(tmp_path: Path) -> None:
    source = tmp_path / "small.onnx"
    model = qdq_model()
    model.producer_name = "tf2onnx"
    source.write_bytes(model.SerializeToString())
    inner = next(node.output[0] for node in model.graph.node if node.op_type == "Conv")
    handed_over(source, tmp_path / "out", "--outputs", inner)
    assert [one.name for one in onnx.load(tmp_path / "out" / "model.onnx").graph.output] == [inner]
    refused = ["handover", str(source), "-a", "-m", "pytorch", "-o", str(tmp_path / "refused"), "--strict"]
    assert main(refused) == 1, "tf2onnx wrote the file, not PyTorch"
