"""Notice of changed weights, cheap enough for every pass."""

from __future__ import annotations

from operator import attrgetter, is_
from typing import Any

from torch import nn

_version = attrgetter("_version")


class WeightVersion:
    """Version of a model's weights, which changes with them.

    It notices parameters changed in place, replaced parameters and replaced modules. The modules
    are listed once: to walk the tree at every pass takes five times as long.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._replaced = 0
        self._list()

    def current(self) -> tuple[int, int]:
        """Return the version: the number of replacements, and of changes in place."""
        parameters = self._parameters_now()
        if not self._is_known(parameters):
            self._replaced += 1
            self._list()
            parameters = self._parameters
        return self._replaced, sum(map(_version, parameters))

    def _list(self) -> None:
        modules = list(self._model.modules())
        self._children = [
            (each._modules, tuple(each._modules.values())) for each in modules if each._modules
        ]
        self._owners = [each._parameters for each in modules if each._parameters]
        self._parameters = self._parameters_now()

    def _parameters_now(self) -> list[Any]:
        return [each for owner in self._owners for each in owner.values() if each is not None]

    def _is_known(self, parameters: list[Any]) -> bool:
        return (
            len(parameters) == len(self._parameters)
            and all(map(is_, parameters, self._parameters))
            and all(tuple(now.values()) == before for now, before in self._children)
        )
