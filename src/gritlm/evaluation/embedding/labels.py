"""Labels of classification and clustering rows, and their class ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gritlm.errors import InputError
from gritlm.evaluation.embedding.rows import TaskRow
from gritlm.evaluation.tasks.bad_rows import BadRows

Ids = Mapping[str | int, int]


def of_one_kind(rows: Sequence[TaskRow], file: Path, bad: BadRows) -> list[TaskRow]:
    """Return the rows whose labels have the most frequent type: text or number.

    Raises:
        InputError: for the first label of another type, if rows may not be left out.
    """
    types = Counter(type(row["label"]) for row in rows)
    label_type = types.most_common(1)[0][0] if bad.skip else type(rows[0]["label"])
    first = next(row for row in rows if isinstance(row["label"], label_type))

    def usable(row: TaskRow) -> TaskRow:
        if not isinstance(row["label"], label_type):
            raise InputError(
                f"{row.place}: column 'label' is {row['label']!r}, and {first['label']!r} in "
                f"{first.place}; expected texts everywhere or numbers everywhere"
            )
        return row

    return bad.keep_usable(rows, usable, path=file)


def numbered(rows: Sequence[TaskRow]) -> Ids:
    """Return the class id of each label, in the order of the labels, which have one type.

    Raises:
        InputError: if there are fewer than two labels.
    """
    ids = {label: number for number, label in enumerate(sorted({row["label"] for row in rows}))}
    if len(ids) < 2:
        raise InputError(
            f"{rows[0].place}: all {len(rows)} rows have the label {rows[0]['label']!r}; expected "
            "two labels at least"
        )
    return ids


def known(
    rows: Sequence[TaskRow], ids: Ids, *, train: Path, file: Path, bad: BadRows
) -> list[TaskRow]:
    """Return the rows of ``file`` whose label occurs in ``train``, as others cannot be learned.

    Raises:
        InputError: for the first unknown label, if rows may not be left out.
    """

    def usable(row: TaskRow) -> TaskRow:
        if row["label"] not in ids:
            raise InputError(f"{row.place}: label {row['label']!r} is in no row of {train}")
        return row

    return bad.keep_usable(rows, usable, path=file)
