"""Names of the machines that this backend compiles for, known without loading TVM; `targets.py` describes them."""

from __future__ import annotations

from collections.abc import Mapping

from drpai_qat.core.cpu_features import LEVELS

BOARDS = ("rzv2h", "rzv2n")

MACHINES: Mapping[str, str] = {
    **{name: machine for machine, levels in LEVELS.items() for name in levels},
    **dict.fromkeys(BOARDS, "aarch64"),
}
"""What `platform.machine()` says on each."""
