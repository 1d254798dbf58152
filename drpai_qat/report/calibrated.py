"""What calibration did, in words, for the terminal and the page; "" where there was nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpai_qat.core.text import listed

Told = Mapping[str, Any] | None
"""`calibration` of report.json."""


def calibrated(told: Told) -> str:
    """How many tensors got a range from what data."""
    if told is None:
        return ""
    count, frames, trained = len(told["tensors"]["calibrated"]), told["frames"], len(told["tensors"]["trained"])
    kept = f"; {trained} trained ranges kept" if trained else ""
    record = told.get("record")
    if record is not None:
        kept += f"; {'ranges taken from' if record['reused'] else 'ranges recorded in'} {record['folder']}"
    return f"{count} tensor{'s' if count > 1 else ''} by {told['method']}, {frames} frames of {told['data']}{kept}"


def fitted(calibration: Told) -> str:
    """What --ptq best came to."""
    told = None if calibration is None else calibration.get("ptq")
    if told is None:
        return ""
    if not told["drop_best"] and not told["drop_fast"]:
        return f"weights are not fitted: {told['frames']} frames are too few"
    kept = "fitted weights kept" if told["kept"] == "best" else "fitted weights are no better, and not kept"
    return (
        f"{kept}: drop {told['drop_best']:.3g}%, {told['drop_fast']:.3g}% without, on {told['frames']} frames left out"
    )


def kept_within(calibration: Told) -> str:
    """What --max-drop came to."""
    told = None if calibration is None else calibration.get("max_drop")
    if told is None:
        return ""
    drop = f"{told['drop']:.3g}%, at most {told['limit']:g}% asked for"
    wide, floating = ([one["name"] for one in told[f"{kind}_layers"]] for kind in ("int16", "float"))
    if not wide and not floating:
        return f"{drop}: no layer needs 16 bits or float"
    parts = []
    for names, kind, share in ((wide, "with 16-bit activations", "int16"), (floating, "in float", "float")):
        if names:
            macs = f"{told[f'{share}_mac_fraction']:.1%} of the MACs"
            parts.append(f"{len(names)} of {told['layers']} layers {kind}, {macs}: {listed(names)}")
    return f"{drop}, {told['drop_all_int8']:.3g}% with 8 bits in all layers: {'; '.join(parts)}"
