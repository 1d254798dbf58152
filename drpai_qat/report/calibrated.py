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
    if told["drop_best"] is None:
        return f"weights are not fitted: {told['frames']} frames are too few"
    kept = "fitted weights kept" if told["kept"] == "best" else "fitted weights are not clearly better, and not kept"
    sqnr = f"{told['sqnr_db_best']:.1f} dB on the average frame, {told['sqnr_db_fast']:.1f} dB without"
    return f"{kept}: {sqnr}, of {told['frames']} left aside"


def left_out(calibration: Told) -> str:
    """Steps that the whole network is nearer without."""
    told = None if calibration is None else calibration.get("compared")
    if told is None:
        return ""
    usual, kept = told["networks"][0], next(one for one in told["networks"] if one["kept"])
    steps = {"equalized": "scaled channels", "biases_corrected": "corrected biases"}
    found = [text for key, text in steps.items() if usual[key] and not kept[key]]
    sqnr = f"{kept['sqnr_db']:.1f} dB on the average frame, {usual['sqnr_db']:.1f} dB with all steps"
    return f"{' and '.join(found)}: {sqnr}, of {told['frames']} left aside" if found else ""


def kept_within(calibration: Told) -> str:
    """What --max-drop came to."""
    told = None if calibration is None else calibration.get("max_drop")
    if told is None:
        return ""
    drop = f"{told['drop']:.3g}%, at most {told['limit']:g}% asked for"
    wide, floating = ([one["name"] for one in told[f"{kind}_layers"]] for kind in ("int16", "float"))
    if not wide and not floating:
        return f"{drop}: no layer needs 16 bits or float"
    fine = sum(one["weight_bits"] == 16 for one in told["int16_layers"])
    integers = "with 16-bit activations" + (f" ({fine} with 16-bit weights, too)" if fine else "")
    parts = []
    for names, kind, share in ((wide, integers, "int16"), (floating, "in float", "float")):
        if names:
            macs = f"{told[f'{share}_mac_fraction']:.1%} of the MACs"
            parts.append(f"{len(names)} of {told['layers']} layers {kind}, {macs}: {listed(names)}")
    return f"{drop}, {told['drop_all_int8']:.3g}% with 8 bits in all layers: {'; '.join(parts)}"
