"""Runs a deployed folder on its sample input, compares with the reference, and times it.

usage: python3 run_inference.py [FOLDER] [-n LOOPS] [-o DIR]

Needs numpy and apache-tvm-ffi (pip install), and libtvm_runtime.so in FOLDER/lib or next to this file's lib/, as a
bundle has it. Exit status: 0 equal within tolerance, 1 error, 3 different.
"""

import argparse
import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np
import tvm_ffi

ABSOLUTE, RELATIVE = 0.01, 0.001  # tolerance of the board's own comparison tool
CPU, POOLED_ALLOCATOR = 1, 2
ALIGNMENT = 64  # bytes: what compiled code may assume of every tensor's address


def aligned(array):
    """The array's values at an address that is a multiple of ALIGNMENT."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def load(folder):
    """The network's main function and its parameters."""
    places = (folder / "lib", Path(__file__).resolve().parent / "lib")
    library = next((place / "libtvm_runtime.so" for place in places if (place / "libtvm_runtime.so").exists()), None)
    if library is None:
        sys.exit(f"error: no libtvm_runtime.so in {places[0]}: copy the whole bundle")
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    stored = tvm_ffi.get_global_func("runtime.LoadParamsFromFile")(str(folder / "deploy.params"))
    vm = tvm_ffi.load_module(str((folder / "deploy.so").resolve()))["vm_load_executable"]()
    vm["vm_initialization"](CPU, 0, POOLED_ALLOCATOR)
    return vm, [stored[name] for name in sorted(stored)]


def compare(path, name, got):
    """Print how an output compares with its reference; True if it is within tolerance."""
    if not path.exists():
        print(f"output {name}: no {path} to compare with")
        return True
    want = np.fromfile(path, "<f4")
    if want.size != got.size:
        print(f"output {name}: {got.size} values, the reference has {want.size}")
        return False
    error = np.abs(got.astype(np.float64) - want)
    inside = error <= ABSOLUTE + RELATIVE * np.abs(want)
    same = got.view(np.uint32) == want.view(np.uint32)
    print(
        f"output {name}: max difference {error.max():g}, {100 * inside.mean():.2f}% within tolerance, "
        f"{100 * same.mean():.2f}% identical"
    )
    return bool(inside.all())


def main():
    parser = argparse.ArgumentParser(description="Run a deployed folder on its sample input.")
    parser.add_argument("folder", nargs="?", default=".", type=Path)
    parser.add_argument("-n", dest="loops", default=20, type=int)
    parser.add_argument("-o", dest="out", type=Path, help="folder for output_<i>.bin (default: FOLDER)")
    options = parser.parse_args()
    folder = options.folder
    manifest = json.loads((folder / "deploy.json").read_text())
    vm, parameters = load(folder)
    inputs = []
    for i, entry in enumerate(manifest["inputs"]):
        values = np.fromfile(folder / f"input_{i}.bin", "<f4").astype(entry["dtype"]).reshape(entry["shape"])
        inputs.append(aligned(values))
    arguments = [*map(tvm_ffi.from_dlpack, inputs), *parameters]
    times = []
    for _ in range(options.loops + 1):  # the first run fills caches and pools and is not counted
        start = time.perf_counter()
        result = vm["main"](*arguments)
        times.append(1000 * (time.perf_counter() - start))
    results = [result] if isinstance(result, tvm_ffi.Tensor) else list(result)
    same = True
    for i, (entry, tensor) in enumerate(zip(manifest["outputs"], results, strict=True)):
        got = np.from_dlpack(tensor).astype("<f4").reshape(-1)
        got.tofile((options.out or folder) / f"output_{i}.bin")
        same = compare(folder / "interpreter_out" / f"ref_result_{i}.bin", entry["name"], got) and same
    times = sorted(times[1:])
    threads = tvm_ffi.get_global_func("runtime.NumThreads")()
    print(
        f"latency: min {times[0]:.3f} ms, median {times[len(times) // 2]:.3f} ms, max {times[-1]:.3f} ms "
        f"({len(times)} runs, {threads} threads)"
    )
    return 0 if same else 3


if __name__ == "__main__":
    sys.exit(main())
