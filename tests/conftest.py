"""What all tests share: GPU tests skip where there is no GPU, and the default model by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gritlm.lm import default


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, this machine has none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """Folder of the default model; `make test` sees to it that it is there."""
    if not default.is_cached():
        pytest.skip("the default model is not in the cache folder; get it with: gritlm pull")
    return default.folder()
