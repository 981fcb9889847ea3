"""mteb's command line with a folder: its results, and the metadata of the model."""

from __future__ import annotations

import json
from pathlib import Path

import mteb
import pytest
from mteb.mocks import MockSTSTask
from typer.testing import CliRunner

from gritlm import CardFacts, GritLM
from gritlm.cli.app import create_app
from gritlm.evaluation.embedding.model_meta import meta_of, name_of
from gritlm.lm.hub import default_model
from gritlm.lm.hub.formats import hub_card

FACTS = CardFacts(
    base_model="owner/base",
    license="apache-2.0",
    languages=("en", "de"),
    datasets=("mteb/banking77", "NQ", "owner/other"),
)


@pytest.fixture(scope="module")
def carded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model card."""
    made = tmp_path_factory.mktemp("carded") / "my-model"
    GritLM(folder, device="cpu", dtype="float32").export(made, facts=FACTS)
    return made


def test_metadata_is_that_of_the_model_card(carded):
    model = GritLM(carded, device="cpu", dtype="float32")
    assert model.card_facts == FACTS
    meta = meta_of(model)
    assert meta.name == "gritlm/my-model"
    assert (meta.license, meta.adapted_from) == ("apache-2.0", "owner/base")
    assert meta.languages == ["deu-Latn", "eng-Latn"]
    assert {"Banking77Classification", "NQ"} <= meta.training_datasets
    assert "STSBenchmark" not in meta.training_datasets
    assert meta.is_zero_shot_on([mteb.get_task("NQ")]) is False
    assert meta.is_zero_shot_on([mteb.get_task("STSBenchmark")]) is True


def test_a_model_without_a_card_has_unknown_facts(folder, caplog):
    model = GritLM(folder, device="cpu", dtype="float32")
    meta = meta_of(model)
    assert (meta.license, meta.languages, meta.training_datasets) == (None, None, None)
    assert not caplog.records


def test_a_licence_that_mteb_lacks_is_reported(folder, tmp_path, caplog):
    model = GritLM(folder, device="cpu", dtype="float32")
    model.export(tmp_path / "out", facts=CardFacts(license="my-own"))
    assert meta_of(GritLM(tmp_path / "out", device="cpu")).license is None
    assert "mteb knows no licence 'my-own'" in caplog.text


def test_the_card_of_the_default_model_has_its_licence_and_data():
    facts = hub_card.known_facts(default_model.ADAPTER)
    assert (facts.license, facts.languages) == ("apache-2.0", ("en",))
    assert "mteb/stsbenchmark-sts" in facts.datasets
    assert facts.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_broken_card_has_no_facts(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert hub_card.known_facts(tmp_path) == CardFacts()


def test_a_name_on_a_hub_is_kept(folder):
    model = GritLM(folder, device="cpu", dtype="float32")
    model.source = "owner/name"
    assert name_of(model) == "owner/name"


def test_the_command_writes_results_in_the_layout_of_mteb(carded, tmp_path, monkeypatch):
    monkeypatch.setattr(mteb, "get_tasks", lambda **_: [MockSTSTask()])
    words = ["mteb", "run", "-m", str(carded), "-t", "MockSTSTask"]
    done = CliRunner().invoke(create_app(), [*words, "--output-folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (meta_file,) = tmp_path.rglob("model_meta.json")
    revision = meta_of(GritLM(carded, device="cpu")).revision
    assert meta_file.parent.relative_to(tmp_path).as_posix() == (
        f"results/gritlm__my-model/{revision}"
    )
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    assert (meta["name"], meta["license"]) == ("gritlm/my-model", "apache-2.0")
    result = json.loads((meta_file.parent / "MockSTSTask.json").read_text(encoding="utf-8"))
    assert result["scores"]["test"][0]["main_score"] is not None


def test_other_commands_are_those_of_mteb():
    done = CliRunner().invoke(create_app(), ["mteb", "available-tasks", "--help"])
    assert done.exit_code == 0
    assert "--task-types" in done.output
