"""Runs a deployed folder on its sample input, compares with the reference, and times it.

usage: python3 run_inference.py [FOLDER] [-n LOOPS] [-o DIR]

Needs numpy and apache-tvm-ffi (pip install), and lib/libtvm_runtime.so in FOLDER or beside this file, as a bundle has
it; the loader is that of the package drpai_qat, which lies in python/ of a bundle. Exit status: 0 equal within
tolerance, 1 error, 2 wrong usage, 3 different.
"""

import argparse
import ctypes
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
    parser.add_argument("-o", dest="out", type=Path, help="folder for output_<i>.bin (default: FOLDER)")
    options = parser.parse_args()
    if options.loops < 1:
        parser.error("-n must be 1 or more")
    try:
        import tvm_ffi  # noqa: F401  (before the library that needs it)

        from drpai_qat.core.errors import DrpaiQatError
        from drpai_qat.runtimes import network, sample_run

        load_library(options.folder)
    except (ImportError, OSError) as error:
        return fail(f"{error}: pip install numpy apache-tvm-ffi, and copy the whole bundle")
    try:
        loaded = network.load(options.folder)
        result = sample_run.run(loaded, options.folder, options.loops, inputs=options.folder)
        result.write(options.out or options.folder)
    except DrpaiQatError as error:
        return fail(error)
    print(result)
    return 0 if result.same else 3


def fail(why):
    print(f"error: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
