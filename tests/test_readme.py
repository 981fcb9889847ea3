"""The README does what it says: its Python on the default model, its commands on a tiny one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gritlm.cli.app import create_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


INDEX = "gritlm index examples/corpus/passages.jsonl --to store"
COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture(scope="module")
def model_folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(max_position_embeddings=1024)


@pytest.fixture
def at_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks like the repository to the README, and may be written to."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


def test_the_python_of_the_readme_runs_in_order(towers_folder, at_root, capsys):
    namespace: dict[str, Any] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), namespace)
    model, printed = namespace["model"], capsys.readouterr().out
    assert namespace["q_rep"].shape == (2, model.embedding_dimension)
    assert "Mt. Fuji" in printed
    # The vectors are of use: what belongs together is nearest.
    nearest = model.similarity(namespace["q_rep"], namespace["d_rep"]).argmax(dim=1)
    assert nearest.tolist() == [0, 1]
    assert "Hot rock and gas" in printed
    assert "triangle\n" in printed
    # The answer from documents is the one that is shown.
    sentence = "To stop bleeding, apply firm but gentle pressure, using gauze."
    assert f"Apply firm but gentle pressure\n{sentence}\n['First Aid']\n" in printed


def invoke(words: list[str], model_folder: Path) -> Result:
    model = [] if words[0] == "store" else ["--model", str(model_folder)]
    return CliRunner().invoke(create_app(), [*words, *model], input="hello\n", prog_name="gritlm")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command, model_folder, at_root):
    program, *words = shlex.split(command)
    assert program == "gritlm"
    if words[:1] == ["ask"] or words[:1] == ["store"]:
        invoke(shlex.split(INDEX)[1:], model_folder)
    result = invoke(words, model_folder)
    assert result.exit_code == 0, result.stderr
    assert result.stdout or Path("questions.npy").is_file()


def test_the_readme_names_every_target_of_the_makefile():
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    missing = [name for name in targets if name != "help" and f"make {name}" not in flat(README)]
    assert not missing


def test_the_files_the_readme_links_to_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def flat(text: str) -> str:
    return " ".join(text.split())
