"""Labels as people write them -> numbers, as classifiers take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gritlm.errors import InputError
from gritlm.evaluation.embedding.rows import Row

Ids = Mapping[str | int, int]


def numbered(rows: Sequence[Row]) -> Ids:
    """Label -> number, in the order of the labels.

    Raises:
        InputError: when texts and numbers are mixed, or there is one label only.
    """
    kind = type(rows[0]["label"])
    for row in rows:
        if not isinstance(row["label"], kind):
            raise InputError(
                f"{row.place}: column 'label' is {row['label']!r}, and {rows[0]['label']!r} in "
                f"{rows[0].place}; expected texts everywhere or numbers everywhere"
            )
    ids = {label: number for number, label in enumerate(sorted({row["label"] for row in rows}))}
    if len(ids) < 2:
        raise InputError(
            f"{rows[0].place}: all {len(rows)} rows have the label {rows[0]['label']!r}; expected "
            "two labels at least"
        )
    return ids


def require_known(rows: Sequence[Row], ids: Ids, file: Path) -> None:
    """
    Raises:
        InputError: for a label that no row of ``file`` has: nothing can learn it.
    """
    for row in rows:
        if row["label"] not in ids:
            raise InputError(f"{row.place}: label {row['label']!r} is in no row of {file}")
