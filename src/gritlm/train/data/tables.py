"""Readers on the ``datasets`` library: Parquet and Arrow files, saved folders, hub datasets."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gritlm.distribution import install_hint
from gritlm.errors import InputError, MissingExtraError, did_you_mean, first_line
from gritlm.train.run import parallel


class Table:
    """Records of a dataset of the ``datasets`` library."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset = _undecoded(dataset)
        self._name = name
        if not len(self):
            raise InputError(f"{name} is empty; expected rows")

    def __len__(self) -> int:
        return len(self._dataset)

    def record(self, index: int) -> dict[str, Any]:
        return self._dataset[index]

    def place(self, index: int) -> str:
        return f"{self._name}:{index + 1}"


def _undecoded(dataset: Any) -> Any:
    """Return a dataset whose images and sounds are their files, not decoded by ``datasets``."""
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if (stored := _stored(feature)) != feature:
            dataset = dataset.cast_column(name, stored)
    return dataset


def _stored(feature: Any) -> Any:
    """Return a feature with ``decode=False``, also inside of lists and dicts."""
    if isinstance(feature, Mapping):
        return {name: _stored(each) for name, each in feature.items()}
    if getattr(feature, "decode", False) is True:
        return replace(feature, decode=False)
    inner = getattr(feature, "feature", None)
    return feature if inner is None else replace(feature, feature=_stored(inner))


def from_file(path: Path) -> Table:
    """Open a Parquet or Arrow file, by its suffix.

    Raises:
        InputError: the file cannot be read.
    """
    kind = path.suffix.lower()[1:]
    with _datasets(str(path)) as datasets:
        try:
            dataset = datasets.load_dataset(kind, data_files=_escaped(path), split="train")
        except Exception as error:  # errors of pyarrow, fsspec and datasets
            raise InputError(f"{path} cannot be read as {kind} ({_reason(error)})") from error
    return Table(dataset, str(path))


def from_folder(path: Path, split: str) -> Table:
    """Open a dataset written by ``save_to_disk``.

    Raises:
        InputError: the dataset cannot be read, or has no such split.
    """
    with _datasets(str(path)) as datasets:
        try:
            dataset = datasets.load_from_disk(str(path))
        except Exception as error:
            raise InputError(
                f"{path} cannot be read as a saved data set ({_reason(error)})"
            ) from error
        if isinstance(dataset, datasets.Dataset):
            return Table(dataset, str(path))
    if split not in dataset:
        raise InputError(f"{path} has no split {split!r}{did_you_mean(split, dataset)}")
    return Table(dataset[split], f"{path}[{split}]")


def from_hub(name: str, split: str, *, near: str = "") -> Table:
    """Open a dataset of the hub, or of its cache.

    Args:
        name: id of the dataset.
        split: split of the dataset.
        near: hint on local files with a similar name, for the message.

    Raises:
        InputError: the dataset is not available.
    """
    with _datasets(name) as datasets:
        try:
            dataset = datasets.load_dataset(name, split=split)
        except Exception as error:  # errors of the hub's clients, pyarrow and datasets
            raise InputError(
                f"{name} is no file or folder here{near}, and not to be had from the hub "
                f"({_reason(error)}); check the name and the connection, or download it and give "
                "its folder"
            ) from error
    return Table(dataset, f"{name}[{split}]")


@contextmanager
def _datasets(path: str) -> Iterator[Any]:
    """Import the library; its progress bars show on a terminal, in the main process only."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            f"{path} is read with datasets, which is missing: {install_hint('train')}"
        ) from None
    shown = sys.stderr.isatty() and parallel.is_main()
    if shown or datasets.are_progress_bars_disabled():
        yield datasets
        return
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.enable_progress_bars()


def _reason(error: BaseException) -> str:
    """Return the first line of the root cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _escaped(path: Path) -> str:
    """Return a path with the characters of glob patterns escaped."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))
