"""deploy.params as TVM writes it, and as nobody does."""

import random
import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError
from drpai_qat.deployment.parameters import ALIGNMENT, read_parameters

PARAMETERS: dict[str, NDArray] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(-5, np.int64),
    "c": np.zeros((0, 4), np.int8),
    "d": np.array([[1, 255]], np.uint8),
    "e": np.array([True, False]),
    "f": np.array([0.5], np.float16),
}


@pytest.fixture
def path(tmp_path):
    from drpai_qat.backends.cpu.build import write_params

    write_params(tmp_path / "deploy.params", PARAMETERS)
    return tmp_path / "deploy.params"


def read(path):
    with path.open("rb") as file:
        return read_parameters(file, path)


def test_reads_what_tvm_writes(path):
    found = read(path)
    assert list(found) == list(PARAMETERS)
    for name, array in PARAMETERS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert not array.size or found[name].ctypes.data % ALIGNMENT == 0


def test_every_truncation_is_named(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DeploymentError, match="damaged"):
            read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DeploymentError, match="1 bytes too many"):
        read(path)


def test_every_number_is_doubted(path):
    """Positions in turn hold values that overflow, are negative, or claim more than there is."""
    content = path.read_bytes()
    values = [struct.pack("<q", value) for value in (-1, 1 << 62, (1 << 63) - 1, 1 << 32)]
    values += [struct.pack("<i", value) for value in (-1, 0x7FFFFFFF)] + [b"\0", b"\x04", b"\xff"]
    read_all_the_same = 0
    refusals = []
    draw = random.Random(0)
    for position in range(len(content)):
        value = draw.choice(values)
        changed = bytearray(content)
        changed[position : position + len(value)] = value
        path.write_bytes(changed[: len(content)])
        try:
            found = read(path)
        except DeploymentError as error:
            refusals.append(str(error))
        else:
            read_all_the_same += 1
            assert sum(array.nbytes for array in found.values()) <= len(content)
    assert all(text.startswith(f"{path} is damaged (") and "\n" not in text for text in refusals)
    assert read_all_the_same  # values of tensors may be anything
