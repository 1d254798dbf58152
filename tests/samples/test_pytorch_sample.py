"""The PyTorch sample, run as a user runs it: its commands in an empty folder, small settings."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "PyTorch_sample"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra pytorch"),
]


@pytest.fixture(autouse=True)
def sample_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SAMPLE))


def run(script: str, *arguments: str, folder: Path, status: int = 0) -> str:
    """Run a script of the sample; returns what it printed."""
    command = [sys.executable, str(SAMPLE / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # pytest's workers take the cores already
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900, check=False, env=environment
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def accuracies(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(float|QAT|INT8|PTQ) +│ +([\d.]+)%", printed)}


def test_small_cnn_trains_retrains_and_compiles(tmp_path):
    run("train.py", "--model", "small_cnn", "-lr", "0.001", "--max_epochs", "8", folder=tmp_path)
    options = ("--model", "small_cnn", "-lr", "0.0001", "--max_epochs", "1", "--ptq")
    printed = run("qat_retrain.py", *options, folder=tmp_path)

    top1 = accuracies(printed)
    assert top1["QAT"] >= 96.0
    assert abs(top1["INT8"] - top1["QAT"]) <= 0.3
    assert abs(top1["PTQ"] - top1["float"]) <= 0.5
    echoed = next(line for line in printed.splitlines() if "compile_onnx_model_quant.py" in line)
    assert (tmp_path / echoed.split()[1]).is_file(), "the command can't be typed where it was printed"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "pretrained_small_cnn.pth",
        "pretrained_small_cnn.onnx",
        "pretrained_small_cnn_calibration.npz",
        "pretrained_small_cnn_samples.npz",
        "PTQ_small_cnn_int8",
        "QAT_small_cnn_fp32.pth",
        "QAT_small_cnn_fp32.onnx",
        "QAT_small_cnn_samples.npz",
        "QAT_small_cnn_int8",
    }


@pytest.mark.parametrize("recipe", ["fused", "fx", "pt2e"])
def test_each_recipe_retrains_exports_and_compiles(recipe, tmp_path):
    if recipe == "pt2e":
        pytest.importorskip("torchao")
    run("train.py", "--model", "small_cnn", "--max_epochs", "2", folder=tmp_path)
    retrain = ("qat_retrain.py", "--model", "small_cnn", "--max_epochs", "1")
    printed = run(*retrain, "--recipe", recipe, folder=tmp_path)

    operators = {node.op_type for node in onnx.load(tmp_path / f"QAT_small_cnn_{recipe}_fp32.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    top1 = accuracies(printed)
    assert top1["QAT"] >= 90.0
    assert abs(top1["INT8"] - top1["QAT"]) <= 0.3


@pytest.mark.parametrize("exported", ["qat", "converted"])
def test_the_road_to_tflite(exported, tmp_path):
    pytest.importorskip("ai_edge_litert")
    run("train.py", "--model", "small_cnn", "--max_epochs", "2", folder=tmp_path)
    printed = run("tflite_road.py", "--export", exported, folder=tmp_path)

    rows = re.findall(r"│ (QAT|PyTorch convert|TFLite \w+) +│ ([\d.]+)% │ +(\d*) +│ +([\d.]+)%", printed)
    agreement = {name: float(share) for name, _, _, share in rows}
    sizes = {name: int(size) for name, _, size, _ in rows if size}
    assert agreement.keys() == {"QAT", "PyTorch convert", "TFLite INT8", "TFLite FP16", "TFLite FP32"}
    assert min(agreement.values()) >= 99.0
    assert sizes["TFLite INT8"] < sizes["TFLite FP16"] < sizes["TFLite FP32"]


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    from datasets import open_data
    from networks import build
    from training import Schedule, fit, seed_everything

    def interrupt(epoch):
        if epoch == 1:
            raise KeyboardInterrupt

    data = open_data("mnist5k", gray=True)
    schedule = Schedule(0.001, 0.7, max_epochs=2, batch_size=64, patience=9, target=1.0)
    state = tmp_path / "state.pth"
    seed_everything(0)
    model = build("mnist_mlp", 10)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, schedule, state, resume=False, on_epoch=interrupt)
    assert state.exists()

    resumed, epochs = build("mnist_mlp", 10), list[int]()
    fit(resumed, data, schedule, state, resume=True, on_epoch=epochs.append)

    assert epochs == [1]
    assert not state.exists()


def test_wrong_usage_says_what_to_do(tmp_path):
    assert "run train.py --model small_cnn first" in run(
        "qat_retrain.py", "--model", "small_cnn", folder=tmp_path, status=2
    )
    assert "give one of mnist5k, mnist:DIR" in run("train.py", "--data", "imagenet", folder=tmp_path, status=2)
    assert "reads digits only" in run(
        "train.py", "--model", "mnist_mlp", "--data", "cifar10:x", folder=tmp_path, status=2
    )
    assert "no such file" in run("train.py", "--weights", "missing.pth", folder=tmp_path, status=2)
    assert "nothing was interrupted" in run("train.py", "--model", "mnist_mlp", "--resume", folder=tmp_path, status=2)


# Of torchvision 0.28: number of entries of the state dict, sha256 of its lines "name 64x3x7x7", in order.
TORCHVISION_PARAMETERS = {
    "resnet18": (122, "f77af260c2dbd0eccca06d4d95e026ff44f80b75b346f2d34d66779b98a412f3"),
    "resnet50": (320, "a9e37deb781a9d89ad940f44b26b352088f9b802a6f1a949cd26813f28975b75"),
    "mobilenet_v2": (314, "fbbd7a5246d03de843a79ebfa7378e29e960a086e7f0398e83d6632833b71f1b"),
}


@pytest.mark.parametrize("name", TORCHVISION_PARAMETERS)
def test_parameters_have_torchvisions_names_and_shapes(name):
    from networks import own

    lines = [f"{key} {'x'.join(map(str, value.shape))}" for key, value in own(name, 1000).state_dict().items()]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (len(lines), digest) == TORCHVISION_PARAMETERS[name]


@pytest.mark.parametrize("name", TORCHVISION_PARAMETERS)
def test_torchvisions_network_computes_what_ours_does_with_its_weights(name):
    import torch
    from networks import build, own

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision: {error}")
    torch.manual_seed(0)
    theirs = build(name, 10).eval()
    assert type(theirs).__module__.startswith("torchvision.")
    ours = own(name, 10).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("raised", ["ImportError('No module')", "RuntimeError('operator torchvision::nms is missing')"])
def test_without_a_torchvision_that_works_its_install_line_is_named(raised, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {raised}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for option in (("--weights", "imagenet"), ("--data", "cifar10:x")):
        assert "torchvision (pip finds the two that fit)" in run("train.py", *option, folder=tmp_path, status=2)


def test_a_torchvision_built_for_another_pytorch_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    from networks import build

    assert type(build("resnet18", 10)).__module__ == "networks.resnet"


def test_quantizable_networks_take_the_same_weights_and_compute_the_same():
    import torch
    from networks import NAMES, build

    for name in NAMES:
        torch.manual_seed(0)
        plain = build(name, 10).eval()
        quantizable = build(name, 10, quantizable=True)
        quantizable.load_state_dict(plain.state_dict())
        x = torch.rand(1, 1, 28, 28) if name == "mnist_mlp" else torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected = plain(x)
            np.testing.assert_allclose(quantizable.eval()(x), expected, rtol=1e-4, atol=1e-5)
            quantizable.fuse_model(is_qat=False)
            np.testing.assert_allclose(quantizable(x), expected, rtol=1e-3, atol=1e-4)


def test_mnist5k_is_split_without_overlap():
    from datasets import open_data

    data = open_data("mnist5k", gray=True)

    assert [len(part) for part in (data.train, data.validation, data.test)] == [3500, 500, 1000]
    held_out = {data.test[index][0].numpy().tobytes() for index in range(1000)}
    assert all(data.validation[index][0].numpy().tobytes() not in held_out for index in range(500))
