"""Layers left in float until the outputs are near enough."""

import json

import numpy as np
import onnx
import pytest

import drpai_qat
import preprocess
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.max_drop import fewest
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Silent
from drpai_qat.options import CompileOptions
from tests.calibration.float_models import frames, residual
from tests.reference import reference
from tests.small_models import qdq_model


def drop_of(model, source, data):
    """As docs/calibration.md defines it."""
    found, wanted = (np.stack([reference(one, frame)[0] for frame in data]) for one in (model, source))
    return 100 * np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def kept(source, limit):
    data = frames(source)
    folded = preprocess.preprocess(source, may_be_float=True).model
    found = quantize_float(folded, data, Recipe(max_drop=limit), Silent())
    preprocess.validate(found.model)
    assert found.kept is not None
    assert found.kept.drop == pytest.approx(drop_of(found.model, source, data), rel=1e-3)
    assert found.kept.drop <= limit
    return found.model, found.kept


def test_the_worst_layers_stay_in_float():
    source = residual()
    _, whole = kept(source, 5)
    assert not whole.layers
    assert whole.drop == whole.before
    model, told = kept(source, whole.before * 0.3)
    assert told.before == whole.before
    assert 2 <= len(told.layers) < told.of == 7
    drops = [drop for _, _, drop in told.layers]
    assert drops == sorted(drops, reverse=True)
    assert 0 < told.macs < 1
    names = {name for name, _, _ in told.layers}
    weights = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert (node.input[1] in weights) == (node.name in names)


def test_where_no_layer_could_be_in_integers():
    with pytest.raises(OptionError, match="all 7 layers would have to stay in float"):
        kept(residual(), 1e-4)


@pytest.mark.parametrize("guess", [0, 1, 5, 99])
@pytest.mark.parametrize("least", [1, 2, 6, 9])
def test_the_fewest_that_pass(least, guess):
    tried: list[int] = []

    def passes(count):
        tried.append(count)
        return count >= least

    assert fewest(passes, guess, 10) == least
    assert len(tried) == len(set(tried))
    assert all(0 < count < 10 for count in tried)
    assert fewest(lambda count: False, guess, 10) is None
    assert fewest(lambda count: True, guess, 1) is None


def test_through_the_command(tmp_path, capsys):
    onnx.save(residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in frames(residual())]))
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--calibration", str(tmp_path / "data.npz"), "--check", "layers", "--max-drop", "0.5"]
    assert compile_main([str(tmp_path / "net.onnx"), *arguments]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 7 layers stay in float, 0.0% of the MACs: Gemm_y" in shown
    told = json.loads((out / "report.json").read_text())["calibration"]["max_drop"]
    assert told["drop"] <= told["limit"] == 0.5 < told["drop_all_int8"]
    assert [one["name"] for one in told["float_layers"]] == ["Gemm_y"]


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"qat_type": "pytorch"}, "--max-drop: for models without QAT: drop it, or -a"),
        ({"target": "tflite"}, "--target tflite can't have single layers in float"),
        ({"drp_compiler_dir": "there"}, "the DRP-AI SDK's tools can't have single layers in float"),
    ],
)
def test_where_it_is_refused(others, says):
    with pytest.raises(OptionError, match=says):
        CompileOptions("m.onnx", max_drop=1.0, **others)


def test_a_quantized_file_is_refused(tmp_path):
    onnx.save(qdq_model(), tmp_path / "net.onnx")
    with pytest.raises(OptionError, match="layers are quantized already: drop it"):
        drpai_qat.compile(tmp_path / "net.onnx", output_dir=tmp_path / "out", max_drop=1.0)
    assert not (tmp_path / "out").exists()
