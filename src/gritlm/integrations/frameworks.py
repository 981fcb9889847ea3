"""Lazy public names of the adapters of a framework, which need the framework's extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gritlm import lazy
from gritlm.errors import require_libraries


def names(
    package: str, homes: Mapping[str, str], *, library: str, extra: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package of adapters.

    Args:
        package: the package's ``__name__``.
        homes: module of each public name.
        library: import name of the framework.
        extra: extra of gritlm that installs the framework.
    """
    get, listed = lazy.names(package, homes)

    def get_with_library(name: str) -> Any:
        if name in homes:
            require_libraries((library,), what=f"{package} needs", extra=extra)
        return get(name)

    return get_with_library, listed
