"""What drpai-qat inspect says of real exports, of files with faults, and of what is no model."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from drpai_qat.cli.main import main
from drpai_qat.inspection.content import inspect
from drpai_qat.source.model_options import ModelOptions
from tests.small_models import qdq_model

RECIPES = {
    "aimet_resnet_bn": "AIMET",
    "brev_cnn": "Brevitas",
    "brev_qonnx": "QONNX",
    "mo_unet": "ModelOpt",
    "nncf_mbv3": "NNCF",
    "pt_conv_resnet": "converted to integers",
    "pt_fx_unet": "FX graph mode",
    "pt_pt2e_resnet": "PT2E",
    "pt_up_resnet": "eager mode",
    "tf_cnn_lite": "by way of an int8 TFLite file",
    "tf_partial_op13": "tfmot",
}


def run(capsys, *arguments):
    """Exit status, stdout and stderr of the command."""
    status = main(["inspect", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def network_of(path, **options):
    """Of a file that compiles."""
    network = inspect(ModelOptions(path, **options)).network
    assert network is not None
    return network


def saved(model, folder):
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def set_parameter(model, name, value, dtype=np.float32):
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_told_from_real_exports(models, name):
    origin = inspect(ModelOptions(models / f"{name}.onnx")).origin
    assert RECIPES[name] in origin.recipe
    assert origin.framework == ("TensorFlow" if name.startswith("tf_") else "PyTorch")
    assert len(origin.evidence) == 2


def test_every_export_fits_80_columns_and_names_the_next_command(models, capsys):
    for path in sorted(models.glob("*.onnx")):
        status, out, err = run(capsys, path)
        *rows, last = out.splitlines()
        assert (status, err) == (0, "")
        assert max(map(len, rows)) <= 80
        framework = "tensorflow" if path.name.startswith("tf_") else "pytorch"
        assert last == f"next: drpai-qat compile {path} -a -m {framework}"


def test_the_json_of_a_network_without_stubs(models, capsys):
    status, out, _ = run(capsys, models / "pt_up_resnet.onnx", "--json")
    found = json.loads(out)
    network = found["network"]
    assert status == 0
    assert found["schema_version"] == 1
    assert [one["bits"] for one in network["weights"]] == [8]
    assert network["activations"][0]["bits"] == 7  # reduce_range
    assert {one["op"] for one in network["layer_inputs"]["unranged"]} >= {"", "Add"}
    assert network["layer_inputs"]["missing"] == 1
    assert 0.5 < network["int8_mac_fraction"] < 1
    assert [one["node"] for one in network["layers"] if one["reason"]] == ["/stem/conv/Conv"]


def test_scales_per_channel_of_activations_are_no_outliers(models):
    assert network_of(models / "nncf_mbv3.onnx").doubts == ()


def test_four_bits_are_seen(models):
    network = network_of(models / "brev_w4a8.onnx")
    assert {one.bits for one in network.weights} == {4}
    assert {one.granularity for one in network.weights} == {"per channel"}


def test_dynamic_shapes_are_asked_for_and_given(tmp_path, capsys):
    model = qdq_model()
    for index, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_param = name
    path = saved(model, tmp_path)
    assert [str(one) for one in inspect(ModelOptions(path)).shapes] == ["x:1,3,224,224"]
    status, out, _ = run(capsys, path)
    assert status == 0
    assert out.endswith(f"next: drpai-qat compile {path} -a -m pytorch -s x:1,3,224,224\n")
    assert inspect(ModelOptions(path, input_shape="1,3,8,8")).shapes == ()
    assert network_of(path, input_shape="1,3,8,8").macs == 8 * 8 * 4 * 27


@pytest.mark.parametrize(
    ("network", "weights", "data"),
    [
        ("(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv (x, w) }", (4, 3, 1, 1), "--images DIR"),
        ("(float[1,40] x) => (float[1,4] y) { y = MatMul (x, w) }", (40, 4), "--calibration FILE.npz"),
    ],
)
def test_a_float_model_is_calibrated_next(network, weights, data, tmp_path, capsys):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> net {network}')
    values = np.random.default_rng(0).normal(size=weights).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    path = saved(model, tmp_path)
    status, out, _ = run(capsys, path)
    assert status == 0
    assert "a float model" in out
    assert out.endswith(f"next: drpai-qat compile {path} {data}\n")


@pytest.mark.parametrize(
    ("scales", "kind", "refused"),
    [
        ({"sr": np.inf}, "not finite", True),
        ({"sr": 1e-7}, "all zero", False),
        ({"sr": 1.0, "so": 1.0}, "never observed", False),
    ],
)
def test_scales_that_no_training_meant(tmp_path, capsys, scales, kind, refused):
    model = qdq_model()
    for name, value in scales.items():
        set_parameter(model, name, value)
    path = saved(model, tmp_path)
    found = inspect(ModelOptions(path))
    assert [one.kind for one in found.scales] == [kind]
    assert bool(found.refused) == refused
    status, out, err = run(capsys, path)
    assert kind in out
    assert (status, len(err.splitlines())) == ((1, 1) if refused else (0, 0))
    assert ("next:" in out) != refused


FAR = np.r_[1000, np.ones(15)].astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "shrink", "per_channel", "kinds"),
    [
        (np.ones(16), 1, True, []),
        (np.ones(16), 4, True, ["clipped"]),
        (FAR, 1, True, ["outlier channel"]),
        (FAR, 1, False, ["outlier channel"]),
    ],
)
def test_weights_that_no_training_meant(tmp_path, scale, shrink, per_channel, kinds):
    """16 channels, of which `scale` makes some larger; ranges a `shrink`-th of what they hold."""
    model = qdq_model()
    weights = np.random.default_rng(1).normal(0, 0.2, (16, 3, 3, 3)) * scale.reshape(-1, 1, 1, 1)
    scales = np.abs(weights).max((1, 2, 3)) / 127 / shrink
    scales = scales if per_channel else np.full(16, scales.max())
    set_parameter(model, "w0", weights)
    set_parameter(model, "sw", scales)
    set_parameter(model, "zw", np.zeros(16), np.int8)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    assert [one.kind for one in network_of(saved(model, tmp_path)).doubts] == kinds


def test_what_cannot_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "broken.onnx").write_bytes(b"PK\x03\x04 no model")
    for path in (tmp_path / "broken.onnx", tmp_path / "none.onnx", tmp_path):
        status, out, err = run(capsys, path)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1


def test_wrong_usage(capsys, models):
    assert run(capsys)[0] == 2
    assert run(capsys, models / "pt_fx_unet.onnx", "-s", "1,x")[0] == 2
    assert run(capsys, models / "pt_fx_unet.onnx", "-s", "nothing:1,2")[0] == 1


def test_the_compiler_is_not_loaded(models):
    program = (
        "import sys; from drpai_qat.cli.main import main; "
        f"main(['inspect', {str(models / 'brev_cnn.onnx')!r}]); sys.exit('tvm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
