"""Whether a preprocessing gives the values that a network's input was trained on."""

from __future__ import annotations

from drpai_qat.data.preprocessing import Preprocessing

Range = tuple[float, float]

NEAR = 0.3
"""How far the ends of two ranges may lie apart, as a share of the wider one, to be taken for the same."""

_SYMMETRIC = 0.02


def value_range(how: Preprocessing) -> Range:
    """The values of black and white, of all channels together."""
    table = how.table(max(len(how.mean), len(how.std)))
    return float(table.min()), float(table.max())


def apart(values: Range, trained: Range) -> float:
    """How far the ends lie apart, as a share of the wider range; of a symmetric grid only the farther end counts."""
    if abs(trained[0] + trained[1]) < _SYMMETRIC * (trained[1] - trained[0]):
        farthest = max(abs(value) for value in values)
        return abs(farthest - trained[1]) / max(farthest, trained[1])
    width = max(values[1] - values[0], trained[1] - trained[0])
    return max(abs(values[0] - trained[0]), abs(values[1] - trained[1])) / width


def doubt(how: Preprocessing, trained: Range | None) -> str:
    """One line where a preprocessing gives other values than an input was trained on; "" where it does not."""
    values = value_range(how)
    if trained is None or apart(values, trained) <= NEAR:
        return ""
    return (
        f"the preprocessing gives {values[0]:.4g} to {values[1]:.4g}, and the network's input has a range of "
        f"{trained[0]:.4g} to {trained[1]:.4g}: is it the one of training? (--preprocess)"
    )
