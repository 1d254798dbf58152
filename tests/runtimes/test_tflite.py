from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drpai_qat.core.errors import DeploymentError
from drpai_qat.runtimes.tflite import LiteNetwork

pytest.importorskip("ai_edge_litert", reason="the extra tflite is not installed")

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.tflite")))
def test_files_of_tensorflow_give_its_results(name: str) -> None:
    network = LiteNetwork(MODELS / f"{name}.tflite", plain=True)
    x, y = np.load(MODELS / f"{name}.npz")["x"], np.load(MODELS / f"{name}.tflite.npz")["y"]
    (given,), (result,) = network.inputs, network.outputs
    found = np.concatenate([network.run({given.name: one.reshape(given.shape)})[result.name] for one in x])
    assert np.abs(found - y).max() <= 0.051  # one step of the largest output grid among them


def test_wrong_inputs_are_named() -> None:
    network = LiteNetwork(MODELS / "tf_cnn_op13.tflite")
    (given,) = network.inputs
    with pytest.raises(DeploymentError, match=f"input '{given.name}' is missing"):
        network.run({})
    with pytest.raises(DeploymentError, match=r"is float32 \[1, 27, 28\]; the file wants float32 \[1, 28, 28\]"):
        network.run({given.name: np.zeros((1, 27, 28), np.float32)})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"TFL3 is not all it takes")
    with pytest.raises(DeploymentError, match=r"broken.tflite: LiteRT can't load it"):
        LiteNetwork(path)


def test_intermediate_tensors_and_their_grids() -> None:
    network = LiteNetwork(MODELS / "tf_cnn_op13.tflite", plain=True, keep_all=True)
    (given,) = network.inputs
    network.run({given.name: np.load(MODELS / "tf_cnn_op13.npz")["x"][:1]})
    grids = network.tensors()
    inner = next(
        name for name, grid in grids.items() if grid is not None and grid.dtype == np.int8 and "relu" in name.lower()
    )
    assert network.tensor(inner).any()
    with pytest.raises(DeploymentError, match="no tensor 'nowhere'"):
        network.tensor("nowhere")
