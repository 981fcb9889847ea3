"""Documents and questions of a field: what fields.py makes of small archives, and of real ones."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import typer

from gritlm.cli.app import create_app

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "evaluation" / "fields.py"
DATA = ROOT.parent / "shared" / "data"
LONG = " ".join(["Acne is a common skin disease that causes pimples on the face and back."] * 3)
PAGE = """<Document><Focus>Acne</Focus><QAPairs>
<QAPair pid="1"><Question>What is (are) Acne ?</Question><Answer>{long}</Answer></QAPair>
<QAPair pid="2"><Question>Short?</Question><Answer>Too short.</Answer></QAPair>
<QAPair pid="3"><Question>Notice?</Question><Answer>These resources address {long}</Answer></QAPair>
</QAPairs></Document>"""


def run(*words: str | Path) -> None:
    subprocess.run([sys.executable, SCRIPT, *words], check=True, capture_output=True)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_become_documents_and_their_questions_point_to_them(tmp_path):
    page = PAGE.format(long=LONG).encode()
    with tarfile.open(tmp_path / "medquad.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("acne.xml")
        entry.size = len(page)
        archive.addfile(entry, io.BytesIO(page))
    run("medicine", tmp_path, tmp_path / "out")
    (document,) = rows(tmp_path / "out" / "documents.jsonl")
    assert (document["title"], document["text"]) == ("Acne", LONG)
    assert rows(tmp_path / "out" / "questions.jsonl") == [
        {"question": "What is Acne?", "document": document["id"]}
    ]


def test_clauses_become_documents_and_the_questions_they_hold_for_point_to_them(tmp_path):
    task = tmp_path / "tasks" / "cuad_audit_rights"
    task.mkdir(parents=True)
    (task / "base_prompt.txt").write_text("Does the clause grant an audit?\n\nClause: x")
    (task / "train.tsv").write_text(
        "index\ttext\tanswer\n0\tWe may audit the books.\tYes\n1\tYou may not resell it.\tNo\n"
    )
    run("law", tmp_path, tmp_path / "out")
    documents = {row["text"]: row["id"] for row in rows(tmp_path / "out" / "documents.jsonl")}
    assert set(documents) == {"We may audit the books.", "You may not resell it."}
    assert rows(tmp_path / "out" / "questions.jsonl") == [
        {
            "question": "Does the clause grant an audit?",
            "document": documents["We may audit the books."],
        }
    ]


@pytest.mark.parametrize(("field", "name"), [("medicine", "medquad"), ("law", "legalbench")])
def test_the_real_sets_can_be_read(tmp_path, field, name):
    if not (DATA / name).is_dir():
        pytest.skip(f"../shared/data/{name} is not there")
    run(field, DATA / name, tmp_path, "--limit", "50")
    documents = rows(tmp_path / "documents.jsonl")
    known = {row["id"] for row in documents}
    assert len(known) == len(documents) >= 50
    assert {row["document"] for row in rows(tmp_path / "questions.jsonl")} <= known


def test_the_commands_of_the_recipe_have_the_options_of_the_program():
    text = (ROOT / "recipes" / "adapt" / "README.md").read_text(encoding="utf-8")
    program = typer.main.get_command(create_app())
    lines = re.findall(r"^gritlm .*$", text, re.M)
    assert len(lines) == 3
    for line in lines:
        _, name, *words = shlex.split(line)
        program.commands[name].make_context(name, words)
