import json
import os
from typing import Any

import numpy as np
import pytest

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.deployment import manifest, schema
from drpai_qat.deployment.manifest import Manifest

GRID = QuantParams.of(np.float32(0.1), 3, np.uint8, qmax=127)
CHANNELS = QuantParams.of(np.array([0.1, 0.3], np.float32), 0, np.int8, axis=1)


def written(folder, **changes):
    content: dict[str, Any] = {
        "model": {"name": "m.onnx", "sha256": "0", "qat_type": "pytorch"},
        "inputs": (TensorInfo("x", (1, 3, 8, 8), "float32", GRID),),
        "outputs": (TensorInfo("y", (1, 2), "float32", CHANNELS), TensorInfo("z", (1,), "int64", None)),
        "target": {"name": "avx2"},
        "int8_mac_fraction": 0.75,
        "versions": {"drpai-qat": "1"},
        "check": {"passed": True},
        "files": {"deploy.so": "0" * 64},
    }
    Manifest(**(content | changes)).write(folder)
    return content


def test_reads_what_it_wrote(tmp_path):
    content = written(tmp_path)
    found = manifest.read(tmp_path)
    assert found == Manifest(**content)
    assert found.inputs[0].quantization == GRID
    assert found.outputs[0].quantization == CHANNELS
    assert manifest.is_ours(tmp_path)


def test_schema(tmp_path):
    """Board software reads these keys: changing one changes FORMAT."""
    written(tmp_path)
    content = json.loads((tmp_path / "deploy.json").read_text())
    assert list(content) == [
        "format", "model", "inputs", "outputs", "target", "int8_mac_fraction", "versions", "check",
        "files",
    ]  # fmt: skip
    assert content["format"] == "drpai-qat/1"
    assert list(content["inputs"][0]) == ["name", "shape", "dtype", "quantization"]
    assert list(content["inputs"][0]["quantization"]) == ["scale", "zero_point", "dtype", "qmin", "qmax", "axis"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "holds no deploy.json"),
        ("{", "can't be read"),
        ("[]", "not written by this compiler"),
        ('{"format": "other"}', "not written by this compiler"),
        ('{"format": "drpai-qat/2"}', "format drpai-qat/2"),
        ('{"format": "drpai-qat/1"}', "damaged"),
        ("\0\0", "can't be read"),
        ("[" * 200_000, "can't be read"),
        ('{"format": NaN}', "NaN is not JSON"),
        ('{"format": ' + "1" * 5000 + "}", "can't be read"),
        (" " * (schema.MOST_BYTES + 1), "has more than"),
    ],
)
def test_unusable(tmp_path, text, says):
    if text is not None:
        (tmp_path / "deploy.json").write_text(text)
    with pytest.raises(DeploymentError, match=says):
        manifest.read(tmp_path)
    assert not manifest.is_ours(tmp_path)


def test_a_pipe_or_a_folder_is_no_deploy_json(tmp_path):
    os.mkfifo(tmp_path / "deploy.json")
    with pytest.raises(DeploymentError, match="not a regular file"):  # and not a wait for whoever writes into it
        manifest.read(tmp_path)
    (tmp_path / "deploy.json").unlink()
    (tmp_path / "deploy.json").mkdir()
    with pytest.raises(DeploymentError, match="not a regular file"):
        manifest.read(tmp_path)


def test_what_is_too_large_to_be_read_is_not_written(tmp_path):
    with pytest.raises(DeploymentError, match=r"inputs\[0\].shape is \[1, 2147483647\]: .* 4 GiB"):
        written(tmp_path, inputs=(TensorInfo("x", (1, 2**31 - 1), "float32"),))
    assert not (tmp_path / "deploy.json").exists()


SCALES = [[0.1, 0.3], 0.1]


@pytest.mark.parametrize(
    ("way", "value", "says"),
    [
        (("inputs",), {}, "inputs is {}, not a list"),
        (("inputs", 0, "shape", 1), -1, "inputs[0].shape[1] is -1, not a whole number"),
        (("inputs", 0, "shape", 1), 1 << 59, "inputs[0].shape[1] is 576460752303423488"),
        (("inputs", 0, "shape", 1), True, "inputs[0].shape[1] is true"),
        (("inputs", 0, "shape"), [1 << 16] * 4, "4 GiB"),
        (("inputs", 0, "shape"), [0, 1 << 32, 1 << 32], "4 GiB"),
        (("inputs", 0, "shape"), [1] * 100, "a list of at most 32"),
        (("inputs", 0, "dtype"), "float4_e2m1fnx2", "inputs[0].dtype"),
        (("inputs", 0, "dtype"), "float32x4", "inputs[0].dtype"),
        (("inputs", 0, "name"), "\ud800", "inputs[0].name"),
        (("inputs", 0, "quantization", "scale"), -1.0, "inputs[0].quantization: scale"),
        (("inputs", 0, "quantization", "scale"), 10**400, "inputs[0].quantization.scale"),
        (("inputs", 0, "quantization", "scale"), SCALES, "inputs[0].quantization.scale[0]"),
        (("inputs", 0, "quantization", "dtype"), "int9", "inputs[0].quantization.dtype"),
        (("inputs", 0, "quantization", "zero_point"), 999, "inputs[0].quantization: zero point"),
        (("outputs", 0, "quantization", "axis"), 2, "outputs[0].quantization.axis"),
        (("outputs", 0, "quantization", "axis"), 0, "outputs[0].quantization.scale"),
        (("outputs", 1, "name"), "y", 'outputs[1].name is "y" a second time'),
        (("target",), None, "target is null, not an object"),
        (("target", "features"), ["avx2"], "target.name is missing"),
        (("target", "file"), "../x", 'target.file is "../x", not a path inside the folder'),
        (("int8_mac_fraction",), 2, "int8_mac_fraction is 2, not a number from 0 to 1"),
        (("check", "passed"), 1, "check.passed is 1, not true or false"),
        (("versions", "tvm"), 1, 'versions["tvm"] is 1, not a text'),
        (("files", "deploy.so"), "00", 'files["deploy.so"] is "00", not a SHA-256'),
        (("files", "../.profile"), "0" * 64, 'files["../.profile"] is not the path'),
        (("files", "/etc/passwd"), "0" * 64, 'files["/etc/passwd"] is not the path'),
        (("files", "deploy.json"), "0" * 64, 'files["deploy.json"] is not the path'),
    ],
)
def test_damage_is_named(tmp_path, way, value, says):
    written(tmp_path, target={})
    path = tmp_path / "deploy.json"
    content = json.loads(path.read_text())
    place = content
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DeploymentError) as caught:
        manifest.read(tmp_path)
    assert says in str(caught.value)


def test_what_later_versions_add_is_left_alone(tmp_path):
    written(tmp_path)
    path = tmp_path / "deploy.json"
    content = json.loads(path.read_text())
    for place in (content, content["inputs"][0], content["inputs"][0]["quantization"], content["target"]):
        place["later"] = {"deep": [1]}
    path.write_text(json.dumps(content))
    assert manifest.read(tmp_path).inputs[0].quantization == GRID
