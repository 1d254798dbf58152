"""A figure of the user's own: a function of all outputs and answers, or a class that is told of one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import one_line
from drpai_qat.data.user_functions import blame, load_function
from drpai_qat.evaluation.answers import Outputs


class Metric(Protocol):
    """Told of every output and its answer, then asked for the figures."""

    def update(self, outputs: Any, label: Any) -> Any:
        """One example: the output's array, or a mapping by name where there are several; and its answer."""

    def compute(self) -> Any:
        """A number, or a mapping of numbers."""


class _Collected:
    """Keeps everything for a function of all; arrays where all examples have the same shape."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self._outputs: list[Any] = []
        self._labels: list[Any] = []

    def update(self, outputs: Any, label: Any) -> None:
        self._outputs.append(outputs)
        self._labels.append(label)

    def compute(self) -> Any:
        first = self._outputs[0]
        outputs = np.concatenate(self._outputs) if isinstance(first, np.ndarray) and first.ndim else self._outputs
        try:
            labels = np.asarray(self._labels)
        except ValueError:  # of different shapes
            return self._function(outputs, self._labels)
        return self._function(outputs, labels if labels.dtype.kind in "biuf" else self._labels)


class Figures:
    """A metric of one network, and its result by name."""

    def __init__(self, given: str | Callable[..., Any]) -> None:
        """Find it.

        Raises: OptionError: there is no such function.
        """
        found = load_function(given, "--metric") if isinstance(given, str) else given
        self._name = getattr(found, "__name__", "metric")
        self._where = f"--metric {one_line(given if isinstance(given, str) else self._name)}"
        self._metric: Metric = self._called(found) if isinstance(found, type) else _Collected(found)

    def update(self, outputs: Outputs, label: Any) -> None:
        """One example's outputs and answer.

        Raises: OptionError: the user's code fails.
        """
        self._called(self._metric.update, next(iter(outputs.values())) if len(outputs) == 1 else outputs, label)

    def result(self) -> dict[str, float]:
        """The figures by name.

        Raises: OptionError: the user's code fails, or returns something else.
        """
        value = self._called(self._metric.compute)
        values = value if isinstance(value, Mapping) else {self._name: value}
        try:
            return {str(name): float(one) for name, one in values.items()}
        except (TypeError, ValueError):
            raise OptionError(f"{self._where} returns {one_line(value, 60)}: a number is wanted, or a dict") from None

    def _called(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # whatever the user's code does
            raise OptionError(f"{self._where}: {blame(error)}") from None
