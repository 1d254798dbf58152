"""The board's Python runner needs numpy and apache-tvm-ffi alone: what it loads of this package loads nothing else."""

import subprocess
import sys
from pathlib import Path

from drpai_qat.backends.cpu import bundle

PROGRAM = """
import importlib, re, sys

MISSING = {"click", "google", "jinja2", "onnx", "onnxruntime", "packaging", "platformdirs", "rich", "tvm"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(f"the board has no {name}")

sys.meta_path.insert(0, Missing())
for package, names in re.findall(r"from (drpai_qat[.\\w]*) import ([\\w, ]+)", open(sys.argv[1]).read()):
    module = importlib.import_module(package)
    for name in names.split(", "):
        if not hasattr(module, name):
            importlib.import_module(f"{package}.{name}")
print(sum(name.startswith("drpai_qat") for name in sys.modules))
"""


def test_the_boards_runner_loads_without_other_packages():
    runner = bundle.sources() / "run_inference.py"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(runner)], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 5
