"""Values of ``--adapter`` of a server: adapters with and without a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gritlm.errors import InputError
from gritlm.printable import excerpt

_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<folder>.+)")


def split_adapters(values: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """Return the adapter of the model itself, and the adapters that are models of their own.

    Args:
        values: ``FOLDER`` for the former, ``NAME=FOLDER`` for the latter.

    Raises:
        InputError: for two adapters without a name, or a name that is used twice.
    """
    own: str | None = None
    named: dict[str, str] = {}
    for value in values:
        match = None if Path(value).is_dir() else _NAMED.fullmatch(value)
        if match is None:
            if own is not None:
                raise InputError(
                    f"--adapter {excerpt(own)} and --adapter {excerpt(value)} are both without a "
                    "name; several adapters need one each: --adapter law=runs/law"
                )
            own = value
        elif match["name"] in named:
            raise InputError(
                f"--adapter {match['name']}=... is given twice; give each adapter its own name"
            )
        else:
            named[match["name"]] = match["folder"]
    return own, named
