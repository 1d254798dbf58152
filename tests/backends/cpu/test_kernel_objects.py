"""Building through object files, with and without a cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import preprocess
from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.build import build, write_params
from drpai_qat.backends.cpu.cache import NO_CACHE, KernelCache
from drpai_qat.lowering import Lowered, lower
from drpai_qat.runtimes.network import Network
from tests.small_models import qdq_model


def canonical() -> onnx.ModelProto:
    return preprocess.preprocess(qdq_model(), "pytorch").model


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return lower(canonical(), targets.host().isa)


def run(lowered: Lowered, folder: Path, cache: KernelCache) -> dict[str, np.ndarray]:
    folder.mkdir()
    build(lowered, targets.host(), folder / "deploy.so", cache=cache)
    write_params(folder / "deploy.params", lowered.params)
    network = Network(folder / "deploy.so", folder / "deploy.params", lowered.inputs, lowered.outputs)
    rng = np.random.default_rng(0)
    return network.run({info.name: rng.normal(0, 1, info.shape).astype(info.dtype) for info in lowered.inputs})


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one | other)


def test_code_of_every_kernel_is_told(lowered: Lowered, tmp_path: Path) -> None:
    """Symbols and sizes that binutils read from the library; each step's kernel is of the kind that lowering said."""
    library = tmp_path / "deploy.so"
    _, code = build(lowered, targets.host(), library)
    assert [name.rpartition("_")[0] for (name,) in code.steps] == [step.kind for step in lowered.kernels]
    table = subprocess.run(["nm", "-S", library], capture_output=True, text=True, check=True).stdout
    sizes = {words[3]: int(words[1], 16) for words in map(str.split, table.splitlines()) if len(words) == 4}
    for name, found in code.kernels.items():  # constants, padding and functions that threads run come on top
        assert sizes[f"__tvm_ffi_{name}"] <= found < sizes[f"__tvm_ffi_{name}"] + 20_000, name
    assert sum(code.kernels.values()) < library.stat().st_size


def forbid_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a kernel was built")

    monkeypatch.setattr("drpai_qat.backends.cpu.kernel_objects._build", refuse)


def test_the_second_build_finds_every_kernel(lowered: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KernelCache(tmp_path / "kernels")
    plain, first = run(lowered, tmp_path / "plain", NO_CACHE), run(lowered, tmp_path / "first", cache)
    forbid_code_generation(monkeypatch)
    second = run(lowered, tmp_path / "second", cache)
    assert same(plain, first)
    assert same(first, second)
    libraries = [(tmp_path / name / "deploy.so").read_bytes() for name in ("plain", "first", "second")]
    assert libraries[0] == libraries[1] == libraries[2]
    assert b".debug_info" not in libraries[0]


def test_other_weights_find_every_kernel(lowered: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are parameters: a network trained on has the same kernels."""
    cache = KernelCache(tmp_path / "kernels")
    first = run(lowered, tmp_path / "first", cache)
    trained = canonical()
    for tensor in trained.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, axis=0), tensor.name))
    forbid_code_generation(monkeypatch)
    assert not same(first, run(lower(trained, targets.host().isa), tmp_path / "second", cache))


def test_another_target_finds_none(lowered: Lowered, tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "kernels")
    run(lowered, tmp_path / "first", cache)
    before = set(os.listdir(tmp_path / "kernels"))
    other = targets.by_name("x86-64-v2")
    build(lower(canonical(), other.isa), other, tmp_path / "other.so", cache=cache)
    assert len(os.listdir(tmp_path / "kernels")) == 2 * len(before)


def test_damaged_entries_are_built_again(lowered: Lowered, tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "kernels")
    first = run(lowered, tmp_path / "first", cache)
    entries = sorted((tmp_path / "kernels").iterdir())
    whole = [entry.read_bytes() for entry in entries]
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    assert same(first, run(lowered, tmp_path / "second", cache))
    assert [entry.read_bytes() for entry in entries] == whole


def test_equal_kernels_are_built_once(tmp_path: Path) -> None:
    """Two layers of one shape that differ in weights and scales."""
    from tests.lowering.running import grid, model, qdq

    rng = np.random.default_rng(0)
    layers = "".join(
        f"v{i} = DequantizeLinear(w{i}, sw{i}, zw) c{i} = Conv(t{i}, v{i}) r{i} = Relu(c{i})\n"
        + qdq(f"r{i}", f"t{i + 1}", f"t{i + 1}")
        for i in range(3)
    )
    constants: dict[str, Any] = {"zw": np.int8(0)}
    for i in range(4):
        constants |= grid(f"t{i}", 0.05 + 0.01 * i, 0)
        constants |= {f"w{i}": rng.integers(-50, 50, (8, 8, 1, 1)).astype(np.int8), f"sw{i}": np.float32(0.01 + i)}
    source = model("(float[1,8,5,5] x) => (float[1,8,5,5] t3)", qdq("x", "t0") + layers, **constants)
    cache = KernelCache(tmp_path / "kernels")
    build(lower(source, targets.host().isa), targets.host(), tmp_path / "deploy.so", cache=cache)
    kinds = [name.rpartition("_")[0] for name in _symbols(tmp_path / "deploy.so")]
    assert kinds.count("conv") == 1, kinds


def _symbols(library: Path) -> list[str]:
    import subprocess

    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in listing.splitlines()]
    return [name.removeprefix("__tvm_ffi_") for name in names if name.startswith("__tvm_ffi_") and name[-16:].isalnum()]
