"""Runs a deployed folder on its sample input, compares with the reference, and times it; or runs it on files.

usage: python3 run_inference.py [FOLDER] [-i FILE ...] [-n LOOPS] [-w RUNS] [-o DIR] [--threads N]

Files are images, prepared as deploy.json records (pip install pillow), .npz, .npy or .bin (raw float32).

Needs numpy and apache-tvm-ffi (pip install), and lib/libtvm_runtime.so in FOLDER or beside this file, as a bundle has
it; the loader is that of the package drpai_qat, which lies in python/ of a bundle. Exit status: 0 equal within
tolerance, or run on files, 1 error, 2 wrong usage, 3 different.
"""

import argparse
import ctypes
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "python"))
sys.dont_write_bytecode = True  # the folder stays as it was bundled


def load_library(folder):
    """Load the bundle's own runtime; without one, the loader takes that of the installed package apache-tvm."""
    for place in (folder / "lib", HERE / "lib"):
        if (place / "libtvm_runtime.so").is_file():
            ctypes.CDLL(str((place / "libtvm_runtime.so").resolve()), ctypes.RTLD_GLOBAL)
            return


def main():
    parser = argparse.ArgumentParser(description="Run a deployed folder on its sample input.")
    parser.add_argument("folder", nargs="?", default=".", type=Path)
    parser.add_argument("-n", dest="loops", default=20, type=int)
    parser.add_argument("-i", dest="files", action="append", default=[], type=Path, help="run on this; repeatable")
    parser.add_argument("-w", dest="warm_up", default=1, type=int, help="runs before the clock (default: 1)")
    parser.add_argument("-o", dest="out", type=Path, help="write output_<i>.bin into this folder, or a .npz file")
    parser.add_argument("--threads", type=int, help="default: TVM_NUM_THREADS, or all cores")
    options = parser.parse_args()
    if options.loops < 1 or options.warm_up < 0 or (options.threads is not None and options.threads < 1):
        parser.error("-n and --threads must be 1 or more, -w 0 or more")
    if options.out is not None and options.out.resolve() == options.folder.resolve():
        return fail("-o is the network's own folder: name another one")
    if options.threads is not None:
        os.environ["TVM_NUM_THREADS"] = str(options.threads)  # read when the runtime starts its threads
    try:
        import tvm_ffi  # noqa: F401  (before the library that needs it)

        from drpai_qat.core.errors import DrpaiQatError
        from drpai_qat.data.given_inputs import read_inputs
        from drpai_qat.deployment import manifest
        from drpai_qat.runtimes import given_run, network, sample_run

        load_library(options.folder)
    except (ImportError, OSError) as error:
        return fail(f"{error}: pip install numpy apache-tvm-ffi, and copy the whole bundle")
    try:
        loaded = network.load(options.folder)
        if options.files:
            given = read_inputs(options.files, loaded.inputs, manifest.read(options.folder).preprocessing)
            result = given_run.run(loaded, given, options.loops, options.warm_up)
        else:
            result = sample_run.run(
                loaded, options.folder, options.loops, inputs=options.folder, warm_up=options.warm_up
            )
        if options.out is not None:
            result.write(options.out)
    except DrpaiQatError as error:
        return fail(error)
    print(result)
    return 0 if options.files or result.same else 3


def fail(why):
    print(f"error: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
