"""The guide's own command, with doubles of the tools: what they are asked, what is written, and how they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import drpai_qat
from drpai_qat.backends.drpai_sdk.processes import ToolError
from drpai_qat.backends.drpai_sdk.tools import RESULTS
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import DeploymentError, ModelError, OptionError
from tests.small_models import qdq_model

SCRIPT = Path(__file__).parents[3] / "compile_onnx_model_quant.py"

FOREIGN = """
    graph.node[-1].domain = "vendor"
    model.opset_import.append(helper.make_opsetid("vendor", 1))
    return model.SerializeToString()
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(qdq_model().SerializeToString())
    return path


def guide(sdk: Any, model: Path, out: Path, *more: str) -> list[str]:
    """The line of the QAT guide."""
    tools = ["-d", str(sdk.translator), "-q", str(sdk.quantizer), "-p", "az True", "-v", "091"]
    return [str(model), *tools, "-a", "-m", "pytorch", "-o", str(out), *more]


def compiled(sdk: Any, model: Path, out: Path, **options: Any) -> Any:
    given = {"drp_compiler_dir": str(sdk.translator), "quantization_option": "az True", **options}
    drpai_qat.compile(model, output_dir=out, **given)
    return json.loads((out / "deploy.json").read_text())


def left_behind(sdk: Any) -> list[str]:
    return sorted(os.listdir(sdk.translator / "output"))


def test_the_guides_own_line(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert compile_main(guide(sdk, models / "aimet_resnet_bn.onnx", out)) == 0
    printed = capsys.readouterr()
    assert "passed against onnxruntime" in printed.out
    assert "Translator of -d, Quantizer of -q" in printed.err
    content = json.loads((out / "deploy.json").read_text())
    assert content["target"]["name"] == "rzv2h+drpai"
    assert content["target"]["product"] == "V2H"
    assert content["target"]["operators"] == "-v 091"
    assert content["target"]["tools"]["DRP-AI Translator"].startswith("version 1.12")
    (part,) = content["target"]["plan"]
    assert (part["runs_on"], part["run_here"]) == ("drpai", "model_quantization.onnx")
    assert part["operators"]["Conv"] == 6
    wanted = {f"sub_0_drpai/{name}" for name in (*RESULTS, "sub_0_drpai_addr_map.txt")}
    assert len(wanted) == 16
    assert wanted | {"sub_0_drpai/model_quantization.onnx", "sub_0_drpai/ranges.json"} == set(part["files"])
    assert {*part["files"], "drpai.log", "model_int8.onnx"} <= set(content["files"])
    assert sorted(os.listdir(out)) == [
        "deploy.json", "drpai.log", "input_0.bin", "interpreter_out", "model_int8.onnx", "report.html", "report.json",
        "sub_0_drpai",
    ]  # fmt: skip
    assert left_behind(sdk) == []
    assert str(tmp_path) not in (out / "deploy.json").read_text() + (out / "report.json").read_text()


def test_what_the_tools_are_asked(sdk: Any, small: Path, tmp_path: Path) -> None:
    assert compile_main(guide(sdk, small, tmp_path / "out", "--quiet")) in (0, 3)
    calls = sdk.calls()
    assert [one["tool"] for one in calls] == ["optimizer", "quantizer", "optimizer", "translator"]
    first, quantizer, second, translator = (one["argv"] for one in calls)
    assert [Path(first[1]).name, Path(first[3]).name] == ["pre_optimize_model.onnx", "model.onnx"]
    folder = Path(first[1]).parent
    model = str(folder / "model_quantization.onnx")
    assert quantizer == [
        "--calibrate_method", "MinMax", "--input_model_path", str(folder), "--output_model_path", model, "--tvm",
        "-az", "True", "--opts", "exclude_act_func_dir", "./exclude_operator",
    ]  # fmt: skip
    assert second == [
        "--file_in", str(folder / "pre_optimize_model.onnx"), "--file_out", str(folder / "_tmp_model.onnx"),
        "--prepost", str(folder / "prepost.yaml"),
    ]  # fmt: skip
    assert re.fullmatch(r"sub_0_drpai_[0-9a-f]{8}", translator[0])
    assert translator[1:] == [
        "--onnx", model, "--prepost", str(folder / "prepost.yaml"), "--s_addr", "0x0", "--sparse", "--disable_onnxsim",
        "--check_operator", "False",
    ]  # fmt: skip
    assert [one.get("cwd") for one in calls] == [None, str(sdk.quantizer), None, str(sdk.translator)]
    for one in calls[1::2]:
        assert one["PRODUCT"] == "V2H"
        assert one["PYTHONPATH"].split(":")[0] == str(sdk.quantizer)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", []),
        ("--disable_onnxsim", ["--disable_onnxsim"]),
        ("--device --disable_onnxsim", ["--disable_onnxsim", "--device"]),
        ("--device", ["--device"]),
    ],
)
def test_flags_of_other_releases(sdk: Any, small: Path, tmp_path: Path, flags: str, expected: list[str]) -> None:
    """The doubles refuse what they do not know, as the tools do."""
    sdk.set("flags", flags)
    sdk.set("quantizer_without_opts", "yes")
    compiled(sdk, small, tmp_path / "out")
    (call,) = sdk.calls("translator")
    known = ("--disable_onnxsim", "--check_operator", "--device")
    assert sorted(word for word in call["argv"] if word in known) == sorted(expected)
    if "--device" in expected:
        assert call["argv"][call["argv"].index("--device") + 1] == "V2H"
    (call,) = sdk.calls("quantizer")
    assert "--opts" not in call["argv"]
    assert call["argv"][-2:] == ["exclude_act_func_dir", "./exclude_operator"]


def test_switches_of_the_environment(sdk: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMIZER_ENABLE", "false")
    monkeypatch.setenv("SPARSE_ENABLE", "false")
    compiled(sdk, small, tmp_path / "out")
    assert [one["tool"] for one in sdk.calls()] == ["quantizer", "translator"]
    assert "--sparse" not in sdk.calls("translator")[0]["argv"]


def test_options_of_the_user_and_ours_become_one(sdk: Any, small: Path, tmp_path: Path) -> None:
    """The double honours the last --opts alone, and then fails without ours."""
    words = "--opts activation_zeropoint True 'percentile_value' 99.99 --calibrate_method MinMax"
    content = compiled(sdk, small, tmp_path / "out", quantization_option=words)
    (call,) = sdk.calls("quantizer")
    assert call["argv"].count("--opts") == 1
    at = call["argv"].index("--opts")
    assert call["argv"][at + 1 :] == [
        "activation_zeropoint", "True", "percentile_value", "99.99", "exclude_act_func_dir", "./exclude_operator",
    ]  # fmt: skip
    assert content["target"]["plan"][0]["grids_changed"] < content["target"]["plan"][0]["grids"]


def test_no_shell_reads_the_words(sdk: Any, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="unrecognized arguments"):
        compiled(
            sdk, small, tmp_path / "out", quantization_option=f"; touch {tmp_path}/hacked $(touch {tmp_path}/hacked)"
        )
    assert not (tmp_path / "hacked").exists()
    with pytest.raises(OptionError, match=r"-p .*No closing quotation"):
        compiled(sdk, small, tmp_path / "out", quantization_option="'az")


def test_the_cpu_takes_the_rest(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    """A Transpose in the middle: parts alternate, and the linker is the SDK's that -t names."""
    out = tmp_path / "out"
    compiler = tmp_path / "poky/sysroots/x86_64-pokysdk-linux/usr/bin/aarch64-poky-linux/aarch64-poky-linux-g++"
    (tmp_path / "poky/sysroots/aarch64-poky-linux").mkdir(parents=True)
    compiler.parent.mkdir(parents=True)
    shutil.copy(sdk.root / "bin/aarch64-linux-gnu-gcc", compiler)
    (sdk.root / "bin/aarch64-linux-gnu-gcc").unlink()
    tools = ["-c", str(sdk.quantizer), "-t", str(tmp_path / "poky"), "-p", "-az True"]  # -d: beside the Quantizer
    model = str(models / "tf_cnn_op13.onnx")
    assert compile_main([model, *tools, "-a", "-m", "tensorflow", "-o", str(out)]) in (0, 3)
    assert "aarch64-poky-linux-g++ (-t)" in capsys.readouterr().err
    content = json.loads((out / "deploy.json").read_text())
    plan = content["target"]["plan"]
    assert [one["runs_on"] for one in plan] == ["drpai", "cpu", "drpai"]
    assert [one["name"] for one in plan] == ["sub_0_drpai", "sub_1_cpu", "sub_2_drpai"]
    assert plan[1]["files"] == ["sub_1_cpu/deploy.so", "sub_1_cpu/deploy.params"]
    assert plan[1]["inputs"] == plan[0]["outputs"]
    assert plan[2]["inputs"] == plan[1]["outputs"]
    assert (out / "sub_1_cpu/deploy.so").read_text() == "code\n"  # the Arm64 linker's
    assert len(sdk.calls("translator")) == 2
    assert content["int8_mac_fraction"] == 1.0


def test_a_list_of_ones_own(sdk: Any, models: Path, tmp_path: Path) -> None:
    mine = tmp_path / "ops.txt"
    mine.write_text("# what the manual says\nConv\nRelu  # fused\n\n")
    content = compiled(sdk, models / "tf_cnn_op13.onnx", tmp_path / "out", offload_ops=str(mine))
    assert content["target"]["operators"] == "--offload_ops ops.txt"
    offloaded = {name for one in content["target"]["plan"] if one["runs_on"] == "drpai" for name in one["operators"]}
    assert offloaded <= {"Conv", "Relu"}
    for text, says in (("Conv\nConvolution\n", "'Convolution' is no ONNX operator"), ("# none\n", "names no operator")):
        mine.write_text(text)
        with pytest.raises(OptionError, match=says):
            compiled(sdk, models / "tf_cnn_op13.onnx", tmp_path / "other", offload_ops=str(mine))
    mine.write_text("LSTM\n")
    with pytest.raises(ModelError, match=r"no layer is for the accelerator with --offload_ops ops\.txt"):
        compiled(sdk, models / "tf_cnn_op13.onnx", tmp_path / "other", offload_ops=str(mine))


def test_real_samples_calibrate_and_are_recorded(sdk: Any, small: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "real.npz", x=x)
    compiled(sdk, small, tmp_path / "out", samples=str(tmp_path / "real.npz"), record_dir=str(tmp_path / "rec/here"))
    recorded = tmp_path / "rec/here/sub_0_drpai"
    assert sorted(path.name for path in recorded.iterdir()) == ["input", "model.onnx", "output"]
    low, high = -2.56, 2.54
    np.testing.assert_allclose(np.load(recorded / "input/0_1.npy"), np.clip(x[1:2], low, high), rtol=1e-6)
    assert "Clip" in [node.op_type for node in onnx.load(recorded / "model.onnx").graph.node]
    with pytest.raises(OptionError, match=r"-r .* is not empty"):
        compiled(sdk, small, tmp_path / "out", record_dir=str(tmp_path / "rec"))


def test_the_product_decides_the_board(sdk: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--target rzv2n is not the board of PRODUCT=V2H"):
        compiled(sdk, small, tmp_path / "out", target="rzv2n")
    monkeypatch.setenv("PRODUCT", "V2N")
    assert compiled(sdk, small, tmp_path / "out")["target"]["name"] == "rzv2n+drpai"
    monkeypatch.setenv("PRODUCT", "V2L")
    with pytest.raises(OptionError, match="PRODUCT: V2L is unknown"):
        compiled(sdk, tmp_path / "no_such_model.onnx", tmp_path / "other")


def test_grids_that_come_back_changed_are_told(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    """Symmetric activations instead of the trained asymmetric ones: each is in ranges.json, and the log counts them."""
    out = tmp_path / "out"
    arguments = [one for one in guide(sdk, models / "aimet_resnet_bn.onnx", out) if one not in ("-p", "az True")]
    assert compile_main(arguments) in (0, 3)
    assert "0 of 20 trained grids came back as trained; 20 changed (sub_0_drpai/ranges.json)" in capsys.readouterr().err
    notes = json.loads((out / "report.json").read_text())["notes"]
    assert any(one["where"] == "sub_0_drpai" and one["reason"].startswith("0 of 20 trained grids") for one in notes)
    content = json.loads((out / "sub_0_drpai/ranges.json").read_text())
    changed = [one for one in content["returned"] if one["kind"] == "activation" and not one["kept"]]
    assert len(changed) == 13
    assert all(one["trained"] != one["found"] for one in changed)


@pytest.mark.parametrize(
    ("tool", "plays", "says"),
    [
        (
            "quantizer",
            "fails",
            r"Quantizer ended with status 2 and left no .*: RuntimeError: calibration data is empty",
        ),
        (
            "quantizer",
            "writes nothing",
            "Quantizer ended with status 0 and left no model_quantization.onnx; it said nothing",
        ),
        (
            "quantizer",
            "garbage",
            "Quantizer left something else than a model: model_quantization.onnx: is no ONNX model",
        ),
        (
            "translator",
            "fails",
            "Translator ended with status 3 and left no weight.bin; its last lines: E: operator Foo",
        ),
        ("translator", "fails silently", "Translator ended with status 3 and left no weight.bin; it said nothing"),
        ("translator", "missing file", "Translator ended with status 0 and left no drp_param.txt"),
        ("translator", "full disk", "No space left on device"),
        ("translator", "garbage", r"left no weight.bin; its last lines: .*garbage"),
        ("translator", "broken help", "--help ends with status 1.*No module named 'onnxsim'"),
    ],
)
def test_failures(sdk: Any, small: Path, tmp_path: Path, capsys, tool: str, plays: str, says: str) -> None:
    sdk.set(f"plays_{tool}", plays)
    assert compile_main(guide(sdk, small, tmp_path / "deep/out", "--quiet", "-r", str(tmp_path / "rec"))) == 1
    text = capsys.readouterr().err
    assert re.search(says, text), text
    assert text.count("\n") == 1
    assert text.strip().isprintable()
    assert sorted(os.listdir(tmp_path)) == ["sdk", "small.onnx"]
    assert left_behind(sdk) == []
    if plays != "broken help":
        log = Path(text.split("all that the tools said: ")[1].split(" (docs/")[0])
        assert "drpai_quantizer.cli_interface" in log.read_text(errors="replace")
        log.unlink()


@pytest.mark.parametrize("tool", ["quantizer", "translator"])
def test_a_status_is_forgiven_where_the_files_are_there(sdk: Any, small: Path, tmp_path: Path, tool: str) -> None:
    sdk.set(f"plays_{tool}", "fails, but writes")
    compiled(sdk, small, tmp_path / "out")
    assert "so that the work goes on" in (tmp_path / "out/drpai.log").read_text()


def test_a_tool_that_hangs(sdk: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(subprocess.Popen):
        """The Translator's time is over as soon as it is at work, however slow the machine."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout == 77 and "--s_addr" in str(self.args):
                while not ((sdk.root / "pid").exists() and (sdk.root / "pid").read_text()):
                    time.sleep(0.05)
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait(None if timeout == 77 else timeout)

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    sdk.set("plays_translator", "hangs")
    with pytest.raises(ToolError, match=r"Translator has not finished in 77 s .*waiting for a license"):
        compiled(sdk, small, tmp_path / "out", tool_timeout=77)
    assert left_behind(sdk) == []
    assert not Path(f"/proc/{(sdk.root / 'pid').read_text()}").exists()


def test_an_interrupt_ends_the_tool_and_leaves_nothing(sdk: Any, small: Path, tmp_path: Path) -> None:
    sdk.set("plays_translator", "hangs")
    process = subprocess.Popen([sys.executable, SCRIPT, *guide(sdk, small, tmp_path / "out", "--quiet")])
    try:
        until = time.monotonic() + 120
        while not ((sdk.root / "pid").exists() and (sdk.root / "pid").read_text()):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert not Path(f"/proc/{(sdk.root / 'pid').read_text()}").exists()
    assert sorted(os.listdir(tmp_path)) == ["sdk", "small.onnx"]
    assert left_behind(sdk) == []


def test_two_at_once_do_not_meet(sdk: Any, small: Path, tmp_path: Path) -> None:
    commands = [
        subprocess.Popen([sys.executable, SCRIPT, *guide(sdk, small, tmp_path / f"out{index}", "--quiet")])
        for index in range(2)
    ]
    assert all(command.wait(300) in (0, 3) for command in commands)
    prefixes = {one["argv"][0] for one in sdk.calls("translator")}
    assert len(prefixes) == 2
    for index in range(2):
        assert (tmp_path / f"out{index}/sub_0_drpai/sub_0_drpai_addr_map.txt").exists()
    assert left_behind(sdk) == []


def test_a_divided_network_is_for_the_board(sdk: Any, small: Path, tmp_path: Path) -> None:
    compiled(sdk, small, tmp_path / "out")
    with pytest.raises(DeploymentError, match="divided between a board's accelerator and its CPU"):
        drpai_qat.load(tmp_path / "out")


def test_a_quantized_model_that_does_not_run_here(sdk: Any, small: Path, tmp_path: Path, capsys) -> None:
    """Operators of the vendor's own, say: the trained part is run in its place, and that is said."""
    module = sdk.quantizer / "drpai_quantizer/cli_interface.py"
    text = module.read_text().replace("    return model.SerializeToString()", FOREIGN)
    module.write_text(text)
    assert compile_main(guide(sdk, small, tmp_path / "out")) == 0
    assert "the check runs the trained part instead of model_quantization.onnx" in capsys.readouterr().err
    content = json.loads((tmp_path / "out/deploy.json").read_text())
    assert content["target"]["plan"][0]["run_here"].startswith("the trained part instead of model_quantization.onnx: ")


def test_the_check_sees_what_the_tools_did(sdk: Any, models: Path, tmp_path: Path, capsys) -> None:
    """A quantizer that spoils the weights: the check falls short, although folding was exact."""
    module = sdk.quantizer / "drpai_quantizer/cli_interface.py"
    module.write_text(module.read_text().replace("np.float32(127)", "np.float32(3)"))
    arguments = guide(sdk, models / "aimet_resnet_bn.onnx", tmp_path / "out", "--check", "layers")
    assert compile_main(arguments) == 3
    assert "FAILED" in capsys.readouterr().out
