"""Fixtures of all tests: models, adapters, and the skips of GPU tests where there is no GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gritlm.lm import threads
from gritlm.lm.hub import default_model
from gritlm.lm.media.towers import published
from tests import tiny

LOGGERS = (
    "gritlm",
    "uvicorn.error",
    "opentelemetry",
)  # of which the commands and the server set up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, this machine has none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _number_of_threads() -> None:
    """Keep the number of threads, which would depend on the other work of the machine."""
    threads.keep(torch.get_num_threads())


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a test, or a command that it runs in this process, sets up for log lines."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(each.handlers), each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.fixture(scope="session")
def towers_folder(default_folder: Path) -> Path:
    """Folder of the towers of the model ``senses``; `make test` downloads them."""
    folder = published.folder()
    if not (folder / published.SOURCE_FILE).is_file():
        pytest.skip("the towers are not in the cache folder; get them with: gritlm pull senses")
    return folder


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """Folder of the default model's base; `make test` sees to it that it is there."""
    if not default_model.is_cached():
        pytest.skip("the default model is not in the cache folder; get it with: gritlm pull")
    return default_model.folder()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Folder of a tiny model, written once per session: ``tiny_model("gemma2", seed=1, ...)``.

    Tests share the folder. A test that changes files writes its own with ``tiny.folder``.
    """
    found: dict[str, tuple[Path, str]] = {}

    def find(family: str = "llama", seed: int = 0, **changes: object) -> Path:
        settings = repr((family, seed, sorted(changes.items())))
        if settings not in found:
            folder = tiny.folder(tmp_path_factory.mktemp(family), family, seed, **changes)
            found[settings] = (folder, digest(folder))
        return found[settings][0]

    yield find
    for settings, (folder, before) in found.items():
        assert digest(folder) == before, f"a test has changed the shared tiny model {settings}"


def digest(folder: Path) -> str:
    """Return a hash of the names and contents of all files in a folder."""
    content = sha256()
    for path in sorted(folder.rglob("*")):
        content.update(path.relative_to(folder).as_posix().encode())
        if path.is_file():
            content.update(path.read_bytes())
    return content.hexdigest()


@pytest.fixture(scope="session")
def make_adapter() -> Callable[..., Path]:
    """Writes a random LoRA adapter as PEFT does: ``make_adapter(base, folder, r=4, ...)``."""

    def make(base: Path, folder: Path, **settings: Any) -> Path:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | settings
        adapted = get_peft_model(model, LoraConfig(**config))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # PEFT begins with zeros there
                torch.nn.init.normal_(parameter, std=0.05)
        adapted.save_pretrained(folder)
        return folder

    return make
