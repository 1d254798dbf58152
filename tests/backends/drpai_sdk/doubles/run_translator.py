"""Stands for DRP-AI_Translator/run.py: holds what it is given to the public contract, writes the documented files.

A file `plays` beside the folder of the tools names a failure to play, and `release` the flags of another release.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "addr_map.txt addr_map.yaml aimac_cmd.bin aimac_desc.bin aimac_param_cmd.bin aimac_param_desc.bin data_in_list.txt "
    "data_out_list.txt drp_config.mem drp_desc.bin drp_lib_info.txt drp_param.bin drp_param_info.txt drp_param.txt "
    "weight.bin"
).split()


def setting(name: str, default: str = "") -> str:
    path = ROOT / name
    return path.read_text().strip() if path.exists() else default


def main() -> int:
    plays = setting("plays_translator")
    if plays == "broken help":
        sys.stderr.write("Traceback (most recent call last):\nModuleNotFoundError: No module named 'onnxsim'\n")
        return 1
    parser = argparse.ArgumentParser(prog="run.py", description=f"DRP-AI Translator i8 {setting('version', 'v1.12')}")
    parser.add_argument("prefix")
    for name in ("--onnx", "--prepost", "--s_addr"):
        parser.add_argument(name, required=True)
    parser.add_argument("--sparse", action="store_true")
    for name in setting("flags", "--disable_onnxsim --check_operator").split():
        if name == "--disable_onnxsim":
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name)
    given = parser.parse_args()
    with (ROOT / "calls").open("a") as file:
        variables = {name: os.environ.get(name) for name in ("PRODUCT", "PYTHONPATH")}
        file.write(json.dumps({"tool": "translator", "argv": sys.argv[1:], "cwd": os.getcwd(), **variables}) + "\n")
    if not (os.path.isabs(given.onnx) and os.path.isabs(given.prepost)):
        parser.error("absolute paths are wanted")
    import onnx

    inputs = [value.name for value in onnx.load(given.onnx).graph.input]
    text = Path(given.prepost).read_text()
    if not all(f'"{name}"' in text for name in inputs):
        parser.error("the prepost file names other inputs than the model")
    if Path.cwd() != ROOT / "translator":
        parser.error("the working directory is another one")
    out = Path("output") / given.prefix
    out.mkdir(parents=True)
    for name in (*FILES, f"{given.prefix}_addr_map.txt"):
        if plays == "missing file" and name == "drp_param.txt":
            continue
        (out / name).write_bytes(b"\0" * 16 + given.s_addr.encode())
    if plays in ("fails", "fails silently"):
        (out / "weight.bin").unlink()
        if plays == "fails":
            print("E: operator Foo is not supported")
        return 3
    if plays == "fails, but writes":
        return 3
    if plays == "full disk":
        print("OSError: [Errno 28] No space left on device")
        (out / "weight.bin").unlink()
        return 1
    if plays == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe\x1b[31m\0garbage\n")
        (out / "weight.bin").unlink()
        return 0
    if plays == "hangs":
        print("waiting for a license", flush=True)
        (ROOT / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
