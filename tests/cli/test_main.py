"""The command line without compiling: options, exit status, one line per error. Compiling is in test_pipeline.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drpai_qat.cli.command_groups import GROUPS
from drpai_qat.cli.main import compile_main, drpai_qat, main
from drpai_qat.core.errors import ModelError
from tests.cli import options_page
from tests.small_models import qdq_model

ROOT = Path(__file__).parents[2]
SEEN = "seen enough (docs/troubleshooting.md#the-file-is-refused)"
SCRIPT = ROOT / "compile_onnx_model_quant.py"


@pytest.fixture
def compiled(monkeypatch):
    """Options that reach the pipeline; nothing is compiled."""
    from drpai_qat import pipeline

    seen = []

    def run(options, stages):
        seen.append(options)
        raise ModelError("seen\nenough")

    monkeypatch.setattr(pipeline, "run", run)
    return seen


def usage_error(capsys, *arguments):
    assert compile_main(["m.onnx", *arguments]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.splitlines()[-1]


class TestUsage:
    def test_qat_without_type(self, capsys):
        assert "-a needs -m" in usage_error(capsys, "-a")

    def test_type_without_qat(self, capsys):
        assert "-m needs -a" in usage_error(capsys, "-m", "pytorch")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-a", "-m", "jax"],
            ["--target", "avx3"],
            ["--mcpu", "z80"],
            ["-v", "092"],
            ["-f", "int8"],
            ["--level", "2"],
            ["-s", "1,x"],
            ["--check", "some"],
            ["--check-samples", "0"],
            ["--max-lsb", "-1"],
            ["--min-top1", "2"],
            ["--unknown"],
            ["-o"],
            ["second.onnx"],
            ["-a", "-m", "pytorch", "-r", "R"],
            ["-n", "0"],
            ["--images", "I", "--calibration", "C.npz"],
            ["--images", "I", "--preprocess", "imagnet"],
            ["--tool-timeout", "0"],
        ],
    )
    def test_refused(self, capsys, arguments):
        assert usage_error(capsys, *arguments).startswith("Error: ")

    def test_no_model(self, capsys):
        assert compile_main([]) == 2
        assert "MODEL" in capsys.readouterr().err


class TestAccepted:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["-a", "-m", "pytorch"],
            ["-am", "PyTorch"],
            ["--qat", "--qat_type=PYTORCH"],
            ["--qat", "--qat-type", "pytorch"],
        ],
    )
    def test_spellings_of_the_type(self, compiled, arguments):
        assert compile_main(["m.onnx", *arguments]) == 1
        assert compiled[0].qat_type == "pytorch"

    def test_everything(self, compiled):
        compile_main(
            [
                "m.onnx",
                "-a",
                "-m",
                "tensorflow",
                "-o",
                "o",
                "-s",
                "a:0:1,2",
                "-s",
                "3,4",
                "-i",
                "b",
                "--target",
                "avx2",
                "--check",
                "layers",
                "--min-sqnr",
                "40",
                "--max_lsb",
                "3",
                "--min-cosine",
                "0.9",
                "--min-top1",
                "0.5",
                "--check_samples",
                "7",
                "--seed",
                "9",
                "-f",
                "float32",
                "--level",
                "1",
            ]
        )
        (options,) = compiled
        assert [str(shape) for shape in options.input_shapes] == ["a:0:1,2", "b:3,4"]
        assert (options.target, options.check, options.check_samples, options.seed) == ("avx2", "layers", 7, 9)
        assert options.thresholds.min_sqnr_db == 40
        assert options.thresholds.max_lsb == 3
        assert options.thresholds.min_cosine == 0.9
        assert options.thresholds.min_top1 == 0.5

    def test_the_guides_own_command(self, compiled):
        compile_main(["m.onnx", "-d", "T", "-q", "Q", "-p", "az True", "-v", "091", "-a", "-m", "pytorch"])
        assert compiled[0].uses_tools
        assert (compiled[0].drp_compiler_dir, compiled[0].quantization_tool) == ("T", "Q")

    def test_options_without_effect_are_said_and_stop_nothing(self, compiled, capsys):
        arguments = ["m.onnx", "-am", "pytorch", "-p", "-az True", "-v", "091", "--level", "0", "-f", "float16"]
        assert compile_main(arguments) == 1
        assert len(compiled) == 1
        lines = capsys.readouterr().err.splitlines()
        said = [line.split(":")[1] for line in lines]
        assert said == [" -f float16", " -v 091", " --level 0", " -p -az True", f" {SEEN}"]
        assert compile_main([*arguments, "--quiet"]) == 1
        assert capsys.readouterr().err == f"error: {SEEN}\n"

    def test_type_may_be_left_to_the_patterns(self, compiled):
        compile_main(["m.onnx"])
        assert compiled[0].qat_type is None

    def test_same_command_twice_installed(self, compiled):
        main(["compile", "m.onnx", "-a", "-m", "pytorch"])
        compile_main(["m.onnx", "-a", "-m", "pytorch"])
        assert compiled[0] == compiled[1]


def test_named_error_is_one_line(compiled, capsys):
    assert compile_main(["m.onnx"]) == 1
    assert capsys.readouterr().err == f"error: {SEEN}\n"


def test_internal_error_is_one_line(monkeypatch, capsys):
    from drpai_qat import pipeline

    def broken(options, stages):
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(pipeline, "run", broken)
    assert compile_main(["m.onnx", "--quiet"]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "internal: IndexError" in text
    assert compile_main(["m.onnx", "--quiet", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_wrapped_by_a_library(monkeypatch, capsys):
    """TVM turns an exception in a callback into its own: it is an interrupt all the same."""
    from drpai_qat import pipeline

    def interrupted(options, stages):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("callback failed") from None

    monkeypatch.setattr(pipeline, "run", interrupted)
    assert compile_main(["m.onnx", "--quiet"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_interrupt_lost_in_a_finalizer(monkeypatch, capsys):
    """Python drops exceptions of __del__: the next stage must notice."""
    from drpai_qat import pipeline

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def losing(options, stages):
        with stages.stage("one"):
            Finalized()
        pytest.fail("the second stage began")

    monkeypatch.setattr(pipeline, "run", losing)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    assert compile_main(["m.onnx", "--quiet"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def run_script(*arguments, **options):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_help_is_quick_and_complete():
    """No part of the compiler is imported for --help."""
    code = (
        "import sys; from drpai_qat.cli.main import compile_main; compile_main(['--help']); print(sorted(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    for option in [
        "-d",
        "-q",
        "-c",
        "-p",
        "-v",
        "-a",
        "-m",
        "-o",
        "-s",
        "-i",
        "-t",
        "-r",
        "-n",
        "--images",
        "-f",
        "--level",
        "--target",
        "--check",
        "--samples",
        "--seed",
        "--quiet",
        "--version",
    ]:
        assert option in result.stdout
    for package in ("tvm", "onnx", "onnxruntime", "numpy"):
        assert f"'{package}'" not in result.stdout


def test_script_from_another_folder(tmp_path):
    result = run_script("none.onnx", "-a", "-m", "pytorch", cwd=tmp_path)
    assert result.returncode == 1
    assert "error: none.onnx: no such file" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(qdq_model().SerializeToString())
    result = run_script(path, "-a", "-m", "pytorch", "-o", "/proc/out")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "/proc/out can't be written" in result.stderr


def test_the_page_of_options_is_that_of_the_code():
    assert options_page.PAGE.read_text() == options_page.page(), "python -m tests.cli.options_page writes it"


class TestHelp:
    def test_every_command_has_its_heading_and_an_example_to_type(self, capsys):
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        assert set(drpai_qat.commands) <= {name for examples in GROUPS.values() for name in examples}
        for name in drpai_qat.commands:
            assert f"\n  drpai-qat {name} " in text or f"\n  drpai-qat {name}\n" in text

    def test_an_unknown_command_names_the_nearest(self, capsys):
        assert main(["compil", "m.onnx"]) == 2
        assert capsys.readouterr().err.endswith("'compil' is no command: did you mean compile?\n")

    def test_a_model_in_place_of_a_command(self, capsys):
        assert main(["m.onnx", "-a"]) == 2
        assert "type `drpai-qat compile m.onnx`" in capsys.readouterr().err

    def test_an_unknown_option_names_the_nearest(self, capsys):
        assert "'--quiet'" in usage_error(capsys, "--qiet")

    def test_the_shell_completes_commands(self):
        environment = {
            **os.environ,
            "_DRPAI_QAT_COMPLETE": "bash_complete",
            "COMP_WORDS": "drpai-qat co",
            "COMP_CWORD": "1",
        }
        script = "import sys; sys.argv = ['drpai-qat']; from drpai_qat.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert "plain,compile" in done.stdout


def test_json_is_all_that_stands_on_stdout(tmp_path, capsys):
    arguments = [str(ROOT / "samples/models/small_cnn_qat.onnx"), "-a", "-m", "pytorch", "--json"]
    assert compile_main([*arguments, "-o", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1
    assert told["check"]["passed"]
    assert {key: told[key] for key in ("model", "coverage")} == {
        key: json.loads((tmp_path / "out" / "report.json").read_text())[key] for key in ("model", "coverage")
    }
