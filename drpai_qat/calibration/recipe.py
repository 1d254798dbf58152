"""How to calibrate: what the options of the command come down to."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("mse", "minmax", "moving_average", "percentile", "entropy", "layer")
"""How a range is read off data; ranges.py has what each does, layer_error.py what `layer` does."""

EFFORTS = ("fast", "best")
"""What `--ptq` takes."""

PERCENTILE = 99.99
"""Share of a tensor's values, in percent, that its range holds with `percentile`."""


@dataclass(frozen=True)
class Recipe:
    """How ranges are chosen, and what is done beyond them.

    Attributes:
        method: one of METHODS.
        share: of `percentile`, in percent.
        symmetric: activations have zero point 0.
        equalizes: bring the channels of activations to like ranges, where layers compute more exactly by it.
        corrects: take the mean error of each layer's outputs off its bias.
        compares: leave out a step without which the whole network is nearer to the float one, on frames left aside.
        fits: fit weights layer by layer, and keep the network if it is nearer to the float one.
        max_drop: largest relative error of the outputs, in percent; until then layers get 16 bits or stay in float.
    """

    method: str = "mse"
    share: float = PERCENTILE
    symmetric: bool = False
    equalizes: bool = True
    corrects: bool = True
    compares: bool = True
    fits: bool = False
    max_drop: float | None = None
