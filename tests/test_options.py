import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import drpai_qat
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.cli.compile import compile_command
from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import options_of
from drpai_qat.options import CompileOptions


def test_defaults():
    options = CompileOptions("some/net.qat.onnx", qat_type="PyTorch")
    assert options.qat_type == "pytorch"
    assert options.folder == Path("out/net.qat")
    assert options.thresholds.min_sqnr_db == 30
    assert CompileOptions("net.onnx", output_dir="there").folder == Path("there")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"qat_type": "jax"}, "jax"),
        ({"check": "everything"}, "everything"),
        ({"samples": 0}, "sample"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "--seed 1.5 is not a whole number"),
        ({"output_dir": ""}, "-o"),
        ({"target": "pdp11"}, "--target 'pdp11' is unknown: give host, x86-64-v2, avx2, "),
        ({"mcpu": "z80"}, "no CPU 'z80'"),
        ({"samples": 2, "check_samples": 3}, "give one of them"),
        ({"samples": [[1.0]]}, "samples is a list: give a path"),
    ],
)
def test_wrong_values(arguments, says):
    with pytest.raises(OptionError, match=says):
        CompileOptions("m.onnx", **arguments)


def test_a_threshold_is_held_to_its_bounds_in_python_too():
    with pytest.raises(OptionError, match="--min_top1 2: give 0 to 1"):
        Thresholds(min_top1=2)
    with pytest.raises(OptionError, match="--min_sqnr nan: give a number"):
        Thresholds(min_sqnr_db=float("nan"))


def test_samples_may_be_a_number():
    options = CompileOptions("m.onnx", samples=7)
    assert (options.check_samples, options.given) == (7, None)


def test_compile_takes_every_option_by_name():
    """One statement: what the command knows, Python knows, and mypy and help() see it."""
    keywords = inspect.signature(drpai_qat.compile).parameters
    names = {one.name for one in fields(CompileOptions)}
    assert set(keywords) == names | {"progress"}
    assert keywords["check"].default == "outputs"
    flat = {field.name for field, _ in options_of(CompileOptions)}
    assert {parameter.name for parameter in compile_command.params} - flat == {
        "model", "qat", "as_json", "quiet", "verbose", "version", "help",
    }  # fmt: skip


def test_an_unknown_keyword_is_named():
    with pytest.raises(TypeError, match=r"^got an unexpected keyword argument 'nonsense'"):
        drpai_qat.compile("m.onnx", nonsense=1)  # type: ignore[call-arg]


def test_a_command_that_means_the_same():
    assert CompileOptions("a/net.onnx").command == "drpai-qat compile net.onnx"
    options = CompileOptions(
        "net.onnx", qat_type="pytorch", output_dir="x", input_shape=["x:1,3", "y:1,4"], cache=False, check="layers",
        thresholds=Thresholds(max_lsb=0.5), samples="/data/digits/a b.npz", target="avx2",
    )  # fmt: skip
    told = options.command
    assert told.startswith("drpai-qat compile net.onnx -a -m pytorch ")
    for part in ("-s x:1,3 -s y:1,4", "--no_cache", "--check layers", "--max_lsb 0.5", "--samples 'a b.npz'"):
        assert part in told
    assert "data" not in told
