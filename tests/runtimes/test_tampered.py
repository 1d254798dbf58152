"""Every field of deploy.json, with everything that it should not be: refused by name, or it changes nothing."""

import json
import shutil

import numpy as np

import drpai_qat
from drpai_qat.core.errors import DeploymentError
from tests.runtimes.tampering import mutants


def test_every_field(small_output, tmp_path):
    shutil.copytree(small_output, tmp_path / "out")
    path = tmp_path / "out" / "deploy.json"
    loaded, refusals = 0, []
    for way, changed in mutants(json.loads(path.read_text())):
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
