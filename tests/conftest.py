"""What all tests share: GPU tests skip where there is no GPU, and the default model by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gritlm.lm.hub import default_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, this machine has none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """Folder of the default model's base; `make test` sees to it that it is there."""
    if not default_model.is_cached():
        pytest.skip("the default model is not in the cache folder; get it with: gritlm pull")
    return default_model.folder()


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
