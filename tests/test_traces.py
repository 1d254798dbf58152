"""No tracked file tells of the machine that made it: home folders, temporary and installed files, package mirrors.

Exporters write the stack of each node into its metadata, and converters the name of their input into doc strings; both
stand as plain bytes in the file.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Not a trace: the board's user is root, "me" is anybody, and valgrind's output is quoted with a made-up path.
TRACE = re.compile(
    rb"""(?<![\w}])/(home|Users)/(?!me\b|root\b)\w     # home folders ...
    | (?<![\w}])/(root|work|workspace)/\w      # ... and where containers and CI keep sources
    | (?<![\w}])/(var/)?tmp/(?!out/deploy\.so)\w
    | (site|dist)-packages/
    | [Cc]:\\+Users\\
    | ://[\w.-]*(pypi|artifactory|nexus|registry|mirror)[\w.-]*
    | (index[-_]url|trusted-host|find-links)[ =]+[\w.:/-]*\w
    """,
    re.VERBOSE,
)


def contents(path: Path) -> Iterator[bytes]:
    """Bytes of a file, and of what is packed in it."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for name in packed.namelist():
                yield packed.read(name)


def traces(data: bytes) -> list[str]:
    return [data[found.start() : found.end() + 40].decode(errors="replace") for found in TRACE.finditer(data)]


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="not a git work tree")
def test_no_tracked_file_holds_traces_of_a_machine() -> None:
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len([path for path in files if path.suffix == ".onnx"]) > 20, "the models are not among them"
    found = {
        str(path.relative_to(ROOT)): hits
        for path in files
        if path.exists()
        for data in contents(path)
        if (hits := traces(data))
    }
    assert found == {}


@pytest.mark.parametrize(
    "parts",
    [
        ('File "', "home", "ann", 'net.py"'),
        ("R+converted from ", "tmp", "net.tflite"),
        ("", "root", "venv"),
        ("", "opt", "venv", "lib", "site-packages", "torch", "nn"),
        ("https:", "", "pypi.company.net", "simple"),
        ("pip --index-" + "url=http:", "", "10.0.0.1"),  # in two pieces: this file is read, too
    ],
)
def test_traces_are_found(parts: tuple[str, ...]) -> None:
    assert traces("/".join(parts).encode())


@pytest.mark.parametrize("text", ["/home/me/.cache", "/home/root/board", "$dir/root/usr/bin", "https://www.apache.org"])
def test_what_anybody_may_write_is_none(text: str) -> None:
    assert traces(text.encode()) == []
