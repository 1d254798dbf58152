"""Every field of deploy.json, with everything that it should not be: refused by name, or it changes nothing."""

import copy
import json
import shutil
from typing import Any

import numpy as np

import drpai_qat
from drpai_qat.core.errors import DeploymentError

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 59, 1 << 63, 10**30, 0.5, 1e308, "", "float4", "int8x16", "../../etc/passwd",
    "\ud800", "x\0y", [], [-1], [1] * 1000, [[]], {}, {"": None},
)  # fmt: skip


def ways(content, before=()):
    """All keys and indices, from the outside in."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(pairs):
        yield (*before, key)
        yield from ways(value, (*before, key))


def place(content, way):
    for key in way[:-1]:
        content = content[key]
    return content


def test_every_field(small_output, tmp_path):
    shutil.copytree(small_output, tmp_path / "out")
    path = tmp_path / "out" / "deploy.json"
    whole = json.loads(path.read_text())
    loaded, refusals = 0, []
    for way in ways(whole):
        for value in (*VALUES, drop):
            changed = copy.deepcopy(whole)
            if value is drop:
                del place(changed, way)[way[-1]]
            else:
                place(changed, way)[way[-1]] = value
            path.write_text(json.dumps(changed))
            try:
                network = drpai_qat.load(tmp_path / "out")
                network.run({info.name: np.zeros(info.shape, info.dtype) for info in network.inputs})
            except DeploymentError as error:
                refusals.append((way, str(error)))
            else:
                loaded += 1
    assert len(refusals) > loaded > 0
    for way, text in refusals:
        assert "\n" not in text
        if way[0] not in ("format", "files"):  # of another format, or of other files, said in their own words
            assert str(way[0]) in text or text.startswith(("the network stopped", "the outputs", "input "))


def drop():
    """Stands for leaving a key out."""
