"""What the model card of a run says it was trained from."""

from __future__ import annotations

import pytest

from gritlm.lm.hub.weight_sources import HUB
from gritlm.train.run import model_card
from tests.train import runs


@pytest.mark.parametrize(
    ("base", "named", "said"),
    [
        (None, HUB, f"from the default model (`{HUB}`):"),
        ("default", HUB, f"from the default model (`{HUB}`):"),
        ("base", HUB, f"from `{HUB}`:"),
        ("owner/model", "owner/model", "from `owner/model`:"),
    ],
)
def test_the_card_names_the_model_that_was_started_from(tmp_path, base, named, said):
    run = runs.make(tmp_path, model={"base": base})
    model_card.write(tmp_path, run, folder=tmp_path, sources={}, steps=1, metrics={}, skipped=0)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"\nbase_model: {named}\n" in text
    assert said in text
