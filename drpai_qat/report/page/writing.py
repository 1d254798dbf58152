"""Writes report.html, and brings new facts into one that was written before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from drpai_qat.report.content import Report
from drpai_qat.report.page.content import MOST_SAMPLES, content_of
from drpai_qat.report.page.pictures import thumbnail
from drpai_qat.report.page.render import render

FILE = "report.html"


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
