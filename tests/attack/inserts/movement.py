"""What moves, repeats, joins and scatters elements."""

from __future__ import annotations

import numpy as np

from tests.attack.chain import Chain, Shape
from tests.attack.inserts.register import an_axis, insert, needs, something_small


@insert
def turned(chain: Chain, x: str, shape: Shape) -> str:
    """Transposed, and back."""
    perm = chain.rng.sample(range(len(shape)), len(shape))
    back = [int(one) for one in np.argsort(perm)]
    return chain.op("Transpose", something_small(chain, chain.op("Transpose", x, perm=perm)), perm=back)


@insert
def reshaped(chain: Chain, x: str, shape: Shape) -> str:
    """Another rank, and back; the shape is a constant, or asked of the tensor."""
    to = chain.rng.choice(([-1], [1, -1], [-1, shape[-1]] if shape else [1], [1, *shape, 1], [0, -1]))
    needs(shape or 0 not in to)
    flat = something_small(chain, chain.op("Reshape", x, chain.indices(to)))
    asked = chain.rng.random() < 0.3
    return chain.op("Reshape", flat, chain.op("Shape", x) if asked else chain.indices(shape))


@insert
def squeezed(chain: Chain, x: str, shape: Shape) -> str:
    """A dimension more, and back."""
    needs(chain.opset >= 13)
    axis = chain.indices([chain.rng.randrange(len(shape) + 1)])
    return chain.op("Squeeze", something_small(chain, chain.op("Unsqueeze", x, axis)), axis)


@insert
def padded(chain: Chain, x: str, shape: Shape) -> str:
    """Padded, and cut back; or shifted by it."""
    needs(shape and chain.opset >= 11)
    mode = chain.rng.choice(("constant", "reflect", "edge"))
    before = [chain.rng.randrange(min(n, 3)) for n in shape]
    after = [chain.rng.randrange(min(n, 3)) for n in shape]
    value = [chain.constant(chain.rng.choice((0.0, 1.0, -7.5)))] if mode == "constant" else []
    wide = something_small(chain, chain.op("Pad", x, chain.indices(before + after), *value, mode=mode))
    start = chain.rng.choice((before, [0] * len(shape)))
    end = [one + n for one, n in zip(start, shape, strict=True)]
    return chain.op("Slice", wide, chain.indices(start), chain.indices(end), chain.indices(range(len(shape))))


@insert
def sliced_backwards(chain: Chain, x: str, shape: Shape) -> str:
    """Reversed along an axis."""
    axis = an_axis(chain, shape)
    ends = [chain.indices([one]) for one in (-1, -(2**63), axis, -1)]
    return chain.op("Slice", x, *ends)


@insert
def joined(chain: Chain, x: str, shape: Shape) -> str:
    """Joined with itself, taken apart, and one of the parts."""
    needs(chain.opset >= 13)
    axis = an_axis(chain, shape)
    count = chain.rng.choice((2, 2, 3, 9))
    parts = [something_small(chain, x) for _ in range(count)]
    whole = something_small(chain, chain.op("Concat", *parts, axis=axis))
    taken = chain.make("Split", whole, chain.indices([shape[axis]] * count), outputs=count, axis=axis)
    return chain.rng.choice(taken) if chain.rng.random() < 0.5 else chain.op("Add", taken[0], taken[-1])


@insert
def repeated(chain: Chain, x: str, shape: Shape) -> str:
    """Tiled or expanded, and its mean."""
    axis = chain.rng.randrange(len(shape)) if shape else 0
    needs(shape and np.prod(shape) < 2**15 and chain.opset >= 13)
    new = chain.op("Unsqueeze", x, chain.indices([axis]))
    wide = [chain.rng.choice((2, 5)) if at == axis else 1 for at in range(len(shape) + 1)]
    many = chain.op(chain.rng.choice(("Tile", "Expand")), new, chain.indices(wide))
    return chain.op("Gather", something_small(chain, many), chain.indices(chain.rng.choice((0, 1, -1))), axis=axis)


@insert
def gathered(chain: Chain, x: str, shape: Shape) -> str:
    """Entries of an axis in another order, or some twice, counted from either end."""
    axis = an_axis(chain, shape)
    size = shape[axis]
    at = [chain.rng.randrange(-size, size) for _ in range(size)]
    dtype = chain.rng.choice((np.int64, np.int32))
    if chain.opset >= 11 and chain.rng.random() < 0.4:
        spread = np.array(at).reshape([-1 if n == axis % len(shape) else 1 for n in range(len(shape))])
        return chain.op("GatherElements", x, chain.constant(np.broadcast_to(spread, shape), dtype), axis=axis)
    return chain.op("Gather", x, chain.constant(at, dtype), axis=axis)


@insert
def scattered(chain: Chain, x: str, shape: Shape) -> str:
    """Some entries written over."""
    needs(shape and chain.opset >= 16)
    if chain.rng.random() < 0.5:
        axis = an_axis(chain, shape)
        few = tuple(max(1, n // 2) for n in shape)
        size = shape[axis]
        at = np.broadcast_to(
            np.arange(few[axis]).reshape([-1 if n == axis % len(shape) else 1 for n in range(len(shape))]), few
        )
        return chain.op(
            "ScatterElements", x, chain.indices(at - chain.rng.choice((0, size))), chain.constant(chain.spread(few)),
            axis=axis, reduction=chain.rng.choice(("none", "add", "mul")),
        )  # fmt: skip
    rows = chain.rng.sample(range(-shape[0], 0), max(1, shape[0] // 2))
    updates = chain.constant(chain.spread((len(rows), *shape[1:])))
    return chain.op("ScatterND", x, chain.indices(np.array(rows)[:, None]), updates)
