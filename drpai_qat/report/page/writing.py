"""Writes report.html, and brings new facts into one that was written before."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from drpai_qat.deployment import manifest
from drpai_qat.deployment.folder import named_os_errors
from drpai_qat.report.content import Report
from drpai_qat.report.page.content import MOST_SAMPLES, content_of
from drpai_qat.report.page.pictures import thumbnail
from drpai_qat.report.page.render import OtherContentError, render

FILE = "report.html"

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_PICTURE = re.compile(r'<td class="picture">(?:<img src="(data:image/png;base64,[^"]*)"[^>]*>)?</td>')


def write_page(
    folder: Path,
    report: Report,
    samples: Sequence[Mapping[str, NDArray]],
    target: Mapping[str, Any],
    command: str,
    versions: Mapping[str, str],
) -> None:
    """Write the page of a compilation.

    Args:
        samples: that were run; pictures are made of them where they are the user's and images.
        target, command, versions: see `content_of`.
    """
    content = content_of(report, target, command, versions)
    shown = [row["sample"] for row in (content["check"] or {}).get("by_sample", ())] or list(range(len(samples)))
    pictures = [] if content["random"] else [thumbnail(samples[i]) for i in shown[:MOST_SAMPLES]]
    (folder / FILE).write_text(render(content, pictures), encoding="utf-8")


def add_times(folder: Path, microseconds: Mapping[str, float], between: float, where: str) -> bool:
    """Bring measured times into the page of a folder; without a page nothing is done.

    Args:
        microseconds: of a run, by node of the coverage.
        between: microseconds that no kernel takes.
        where: they were measured: "this machine, 2 threads".
    Returns: False if another version wrote the page: it stays as it is.
    Raises: DeploymentError: deploy.json can't be read.
    """
    path = folder / FILE
    found = _DATA.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None:
        return True
    content = json.loads(found[1])
    for row in content["layers"]:
        times = [microseconds[name] for name in row.get("covers", [row["name"]]) if name in microseconds]
        row["milliseconds"] = sum(times) / 1000
    content["timed"] = where
    content["between"] = between / 1000
    try:
        page = render(content, _PICTURE.findall(found.string))
    except OtherContentError:
        return False
    with named_os_errors(folder):
        path.write_text(page, encoding="utf-8")
    deployed = manifest.read(folder)
    replace(deployed, files={**deployed.files, FILE: manifest.sha256(path)}).write(folder)
    return True
