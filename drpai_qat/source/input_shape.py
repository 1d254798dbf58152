"""A shape that the user gives a network input, as -s writes it."""

from __future__ import annotations

from dataclasses import dataclass

from drpai_qat.core.errors import OptionError


@dataclass(frozen=True)
class InputShape:
    """A shape given with -s: for the named network input, or for the only one there is.

    Attributes:
        name: network input, or None.
        dims: positive numbers, batch first.
    """

    name: str | None
    dims: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> InputShape:
        """Read "1,3,224,224" or "name:1,3,224,224"; the name may hold colons itself ("input_1:0:1,28,28").

        Raises: OptionError: not a list of positive numbers.
        """
        name, colon, dims = text.rpartition(":")
        try:
            numbers = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            raise OptionError(f"-s {text!r} is not a shape: write 1,3,224,224 or input_name:1,3,224,224") from None
        if any(number <= 0 for number in numbers):
            raise OptionError(f"-s {text!r}: every dimension must be a positive number; dynamic ones get a value here")
        return cls(name if colon else None, numbers)

    def __str__(self) -> str:
        dims = ",".join(map(str, self.dims))
        return dims if self.name is None else f"{self.name}:{dims}"
