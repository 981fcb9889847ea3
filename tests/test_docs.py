"""What docs/training.md says is so: every setting and its default, rows, settings, code."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM, config
from gritlm.train import config as settings
from gritlm.train.data.formats import parse

ROOT = Path(__file__).parents[1]
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")

# Where each dataclass is told about.
SECTIONS = {
    settings.ModelConfig: "[model]",
    settings.DataConfig: "[data]",
    settings.SourceConfig: "[[data.embedding]]",
    settings.RagConfig: "[rag]",
    settings.LossConfig: "[loss]",
    settings.EvaluationConfig: "[evaluation]",
    settings.TrainingConfig: "[training]",
}
ROWS = {"embedding": "Embedding rows", "generative": "Generative rows", "rag": "RAG rows"}


def section(heading: str) -> str:
    """What stands under a heading, up to the next one."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", TRAINING, re.M | re.S)
    return found


def blocks(language: str, text: str = TRAINING) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def told(text: str) -> Any:
    """A default as the tables write it."""
    words = {"none": None, "required": MISSING}
    if text in words:
        return words[text]
    value = tomllib.loads(f"value = {text}")["value"]
    return tuple(value) if isinstance(value, list) else value


def test_every_dataclass_of_the_settings_has_its_section():
    made = {value for value in vars(settings).values() if hasattr(value, "__dataclass_fields__")}
    assert made == {*SECTIONS, settings.TrainConfig}
    assert {f"[{field.name}]" for field in fields(settings.TrainConfig)} <= {*SECTIONS.values()}


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_setting_is_told_with_its_default(kind):
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section(f"`{SECTIONS[kind]}`"), re.M)
    assert {name: told(text) for name, text in rows} == {f.name: f.default for f in fields(kind)}


@pytest.mark.parametrize("kind", ROWS)
def test_the_rows_that_are_shown_can_be_read(kind):
    (block,) = blocks("jsonl", section(ROWS[kind]))
    for line in block.splitlines():
        assert parse(json.loads(line), kind, place="docs", source=settings.SourceConfig("docs"))


def test_the_run_file_that_is_shown_can_be_read(tmp_path):
    (block,) = blocks("toml")
    (tmp_path / "run.toml").write_text(block, encoding="utf-8")
    assert config.read(tmp_path / "run.toml", settings.TrainConfig).model.lora


def test_the_python_that_is_shown_runs(tiny_model, tmp_path, monkeypatch):
    base = tiny_model(max_position_embeddings=512)
    changes = [f"model.base={base}", "loss.matryoshka_dims=[48]", "training.bf16=false"]
    read = config.read
    monkeypatch.setattr(
        config, "read", lambda path, kind, more: read(path, kind, [*more, *changes])
    )
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for code in blocks("python"):
        exec(compile(code, "training.md", "exec"), namespace)
    assert "eval/first" in namespace["result"].metrics
    assert namespace["loss"].ndim == 0
    assert GritLM(namespace["result"].output_dir, device="cpu").settings.trained_to_embed


@pytest.mark.parametrize(
    "path", [*(ROOT / "docs").glob("*.md"), ROOT / "recipes" / "README.md"], ids=lambda p: p.name
)
def test_the_places_that_documents_link_to_exist(path):
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        file, _, anchor = link.partition("#")
        assert (path.parent / file).exists()
        assert file or anchor in anchors
