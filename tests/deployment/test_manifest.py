import json
from typing import Any

import numpy as np
import pytest

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.deployment import manifest
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
        "files": {"deploy.so": "00"},
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
    ],
)
def test_unusable(tmp_path, text, says):
    if text is not None:
        (tmp_path / "deploy.json").write_text(text)
    with pytest.raises(DeploymentError, match=says):
        manifest.read(tmp_path)
    assert not manifest.is_ours(tmp_path)


@pytest.mark.parametrize("damage", [{"scale": -1.0}, {"dtype": "int9"}, {"nonsense": 1}, {"zero_point": 999}])
def test_damaged_grid(tmp_path, damage):
    written(tmp_path)
    path = tmp_path / "deploy.json"
    content = json.loads(path.read_text())
    content["inputs"][0]["quantization"] |= damage
    path.write_text(json.dumps(content))
    with pytest.raises(DeploymentError, match="damaged"):
        manifest.read(tmp_path)
