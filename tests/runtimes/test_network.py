import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import drpai_qat
from drpai_qat.core.errors import DeploymentError


@pytest.fixture(scope="module")
def network(small_output):
    return drpai_qat.load(small_output)


@pytest.fixture
def copied(small_output, tmp_path):
    shutil.copytree(small_output, tmp_path / "out")
    return tmp_path / "out"


def batch(count, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, 3, 8, 8)).astype(np.float32)


def test_run(network):
    found = network.run({"x": batch(1)})
    assert list(found) == ["y"]
    assert found["y"].shape == (1, 4)
    assert found["y"].dtype == np.float32


def test_a_longer_batch_is_run_piece_by_piece(network):
    x = batch(5)
    together = network.run({"x": x})["y"]
    one_by_one = np.concatenate([network.run({"x": x[i : i + 1]})["y"] for i in range(5)])
    np.testing.assert_array_equal(together, one_by_one)


def test_results_are_the_callers_own(network):
    first = network.run({"x": batch(1)})["y"]
    kept = first.copy()
    network.run({"x": batch(1, seed=1)})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0


def test_any_memory_layout(network):
    x = batch(1)
    wanted = network.run({"x": x})["y"]
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (np.asfortranarray(x), unaligned, x.astype(np.float64), x[:, :, ::-1][:, :, ::-1]):
        np.testing.assert_array_equal(network.run({"x": same})["y"], wanted)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "'x' is missing"),
        ({"x": batch(1), "z": batch(1)}, "no input 'z'"),
        ({"x": batch(1)[0]}, r"shape \[3, 8, 8\]"),
        ({"x": batch(1)[:, :, :4]}, "the network takes"),
        ({"x": batch(0)}, "shape"),
        ({"x": batch(1).astype(np.uint8)}, "uint8"),
        ({"x": batch(1).astype(complex)}, "complex"),
    ],
)
def test_wrong_feeds(network, feeds, says):
    with pytest.raises(DeploymentError, match=says):
        network.run(feeds)


def test_threads_share_a_network(network):
    samples = [batch(1, seed) for seed in range(6)]
    wanted = [network.run({"x": x})["y"] for x in samples]

    def same(index):
        return all(np.array_equal(network.run({"x": samples[index]})["y"], wanted[index]) for _ in range(100))

    with ThreadPoolExecutor(len(samples)) as threads:
        assert all(threads.map(same, range(len(samples))))


def test_a_forked_process_runs_it_too(small_output):
    """TVM's worker threads are not in the child; more of them than this machine's cores, so that some are needed."""
    code = (
        "import os, numpy, drpai_qat\n"
        f"network = drpai_qat.load({str(small_output)!r})\n"
        "x = {'x': numpy.ones((1, 3, 8, 8), 'float32')}\n"
        "wanted = network.run(x)['y']\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    again = drpai_qat.load('.')\n"
        "    os._exit(not all((one.run(x)['y'] == wanted).all() for one in (network, again, network)))\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    environment = os.environ | {"TVM_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment, cwd=small_output)


def test_what_is_not_of_this_network_is_named(copied):
    """Code and description that don't belong together: the code's own checks speak, and nothing is read beyond."""
    path = copied / "deploy.json"
    content = json.loads(path.read_text())
    for side, key, value in (
        ("inputs", "shape", [1, 3, 8, 4]),
        ("inputs", "shape", [192]),
        ("inputs", "dtype", "int32"),
        ("outputs", "shape", [4, 1]),
        ("outputs", "dtype", "int32"),
    ):
        changed = json.loads(json.dumps(content))
        changed[side][0] |= {key: value, "quantization": None}
        path.write_text(json.dumps(changed))
        loaded = drpai_qat.load(copied)
        with pytest.raises(DeploymentError, match=r"the network stopped|not those of deploy\.json"):
            loaded.run({"x": np.zeros(loaded.inputs[0].shape, loaded.inputs[0].dtype)})


class TestLoad:
    @pytest.mark.parametrize("name", ["deploy.so", "deploy.params"])
    def test_a_pipe_is_no_network(self, copied, name):
        (copied / name).unlink()
        os.mkfifo(copied / name)
        with pytest.raises(DeploymentError, match="not a regular file"):
            drpai_qat.load(copied)

    def test_no_folder(self, tmp_path):
        with pytest.raises(DeploymentError, match=r"deploy\.json"):
            drpai_qat.load(tmp_path / "none")

    @pytest.mark.parametrize("name", ["deploy.so", "deploy.params"])
    def test_missing_file(self, copied, name):
        (copied / name).unlink()
        with pytest.raises(DeploymentError, match=f"{name} is missing"):
            drpai_qat.load(copied)

    @pytest.mark.parametrize("name", ["deploy.so", "deploy.params"])
    def test_damaged_file(self, copied, name):
        path = copied / name
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(DeploymentError, match="sha256"):
            drpai_qat.load(copied)

    def test_not_a_library(self, copied):
        from drpai_qat.deployment import manifest

        (copied / "deploy.so").write_bytes(b"\x7fELF nonsense")
        content = json.loads((copied / "deploy.json").read_text())
        content["files"]["deploy.so"] = manifest.sha256(copied / "deploy.so")
        (copied / "deploy.json").write_text(json.dumps(content))
        with pytest.raises(DeploymentError, match="can't be loaded on this machine") as caught:
            drpai_qat.load(copied)
        assert "\n" not in str(caught.value)

    def test_moved_folder(self, copied, tmp_path):
        copied.rename(tmp_path / "elsewhere")
        assert drpai_qat.load(tmp_path / "elsewhere").run({"x": batch(1)})["y"].shape == (1, 4)


def test_runs_without_compiler_and_onnx(small_output):
    """The process that runs a network imports neither, so a board needs neither."""
    code = (
        "import sys, numpy, drpai_qat\n"
        f"network = drpai_qat.load({str(small_output)!r})\n"
        "network.run({'x': numpy.zeros((1, 3, 8, 8), 'float32')})\n"
        "assert not {'tvm', 'onnx', 'onnxruntime', 'preprocess'} & set(sys.modules)\n"
        "assert 'libtvm_compiler' not in open('/proc/self/maps').read()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
