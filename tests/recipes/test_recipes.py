"""Every recipe is a run that could start, and the smallest one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from gritlm import GritLM, config
from gritlm.train.config import TrainConfig
from gritlm.train.data import sources
from gritlm.train.trainer import train

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
TINY = ROOT / "recipes" / "tiny.toml"


@pytest.fixture
def at_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks like the repository to a recipe, and may be written to."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_has_settings_that_exist(path):
    run = config.read(path, TrainConfig)
    assert run.training.output_dir.startswith("runs/")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_table_of_recipes_names_each(path):
    table = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert str(path.relative_to(ROOT)) in table


@pytest.mark.parametrize(
    ("name", "processes", "rows"), [("gritlm-7b", 8, (2048, 256)), ("gritlm-8x7b", 64, (256, 256))]
)
def test_a_step_of_the_published_models_has_the_published_rows(name, processes, rows):
    said = config.read(ROOT / "recipes" / f"{name}.toml", TrainConfig).training
    times = said.gradient_accumulation_steps * processes
    found = (said.per_device_train_batch_size * times, said.per_device_generative_bs * times)
    assert found == rows


def test_the_rows_of_the_tiny_recipe_can_all_be_used(at_root):
    run = config.read(TINY, TrainConfig)
    held_out = run.evaluation
    for kind, many in (
        ("embedding", (*run.data.embedding, *held_out.embedding)),
        ("generative", (*run.data.generative, *held_out.generative)),
        ("rag", run.data.rag),
    ):
        for source in many:
            rows = sources.load(source, kind)
            assert len(list(rows)) >= run.training.per_device_train_batch_size
            assert rows.duplicates == 0


def test_no_row_of_the_tiny_recipe_is_both_trained_and_measured(at_root):
    run = config.read(TINY, TrainConfig)
    trained = {row.query.text for row in sources.load(run.data.embedding[0], "embedding")}
    measured = {row.query.text for row in sources.load(run.evaluation.embedding[0], "embedding")}
    assert not trained & measured


def test_the_tiny_recipe_trains_a_model_that_loads(at_root, tiny_model, tmp_path):
    base = tiny_model(max_position_embeddings=512)
    changes = [f"model.base={base}", "loss.matryoshka_dims=[48, 16]", "training.bf16=false"]
    result = train(config.read(TINY, TrainConfig, changes), progress=False)
    assert result.steps == 8
    assert {"loss_emb", "loss_gen", "eval/loss_emb", "eval/loss_gen"} <= result.metrics.keys()
    model = GritLM(result.output_dir, dtype="float32", device="cpu")
    assert model.encode(["a text"]).shape == (1, 48)
    plain = transformers.AutoModelForCausalLM.from_pretrained(result.output_dir)
    assert any("lora" in name for name, _ in plain.named_parameters())
