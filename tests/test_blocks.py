"""Every fenced block of the documentation runs, is checked, or is listed here with a reason."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import typer
import yaml

from gritlm.cli.app import create_app
from gritlm.config import from_mapping
from gritlm.serve.app import create_app as create_server
from gritlm.serve.config import ServerConfig
from gritlm.serve.key_file import read_keys
from gritlm.train import TrainConfig
from tests.doc_pages import ROOT, Block, blocks, commands, pages

# The test file that runs the Python of a page. It names the page.
RUN = {
    "README.md": "tests/test_readme.py",
    "docs/adapt.md": "tests/adapt/test_run.py",
    "docs/chinese.md": "tests/test_chinese.py",
    "docs/evaluation.md": "tests/evaluation/test_docs.py",
    "docs/integrations.md": "tests/integrations/test_integration_docs.py",
    "docs/quickstart.md": "tests/serve/test_client_pages.py",
    "docs/rag.md": "tests/test_page_code.py",
    "docs/scale.md": "tests/test_page_code.py",
    "docs/senses.md": "tests/test_page_code.py",
    "docs/serving.md": "tests/serve/test_docs.py",
    "docs/training.md": "tests/test_docs.py",
    "src/gritlm/lm/adapter/README.md": "tests/test_page_code.py",
    "src/gritlm/lm/media/projectors/README.md": "tests/test_page_code.py",
}
RUN_FOLDERS = {
    "docs/clients/": "tests/serve/test_client_pages.py",
    "docs/concepts/": "tests/test_concepts.py",
}
# First words of blocks that are no commands, with the reason.
SHOWN = {
    "docs/rag.md": {"one batch, one row": "a drawing"},
    "docs/scale.md": {"client -> gateway": "a drawing"},
    "docs/serving.md": {"OpenAIEmbeddings(": "the call of docs/clients/langchain.md, which runs"},
    "docs/structure.md": {
        "__main__": "a diagram that tests/test_architecture.py compares",
        "prompts = ": "a summary of the encoder",
        "cache = ": "a summary of the generator",
        "query = ": "a summary of the engine",
        "batch = ": "a summary of the trainer",
        "for model in": "a summary of the evaluation",
    },
    "docs/training.md": {"runs/mine/": "the files of a folder"},
    "README.md": {
        "Apply firm": "output that tests/test_readme.py compares",
        "@inproceedings": "a citation",
    },
}
# Programs that are not ours: there is nothing here to compare their options with.
OTHERS = {"docker", "export", "git", "lm_eval", "pip", "serve", "source"}
PLACE = "http://127.0.0.1:8000"
ALL = [block for page in pages() for block in blocks(page)]


def of(*languages: str) -> list[Any]:
    return [pytest.param(each, id=each.place) for each in ALL if each.language in languages]


def is_shown(block: Block) -> bool:
    first = block.text.strip()
    return any(first.startswith(words) for words in SHOWN.get(block.page, {}))


def test_every_block_has_a_language_that_is_checked() -> None:
    checked = {"", "bash", "sh", "json", "jsonl", "python", "text", "toml", "yaml"}
    assert [each.place for each in ALL if each.language not in checked] == []


def test_every_listed_block_is_there() -> None:
    for page, listed in SHOWN.items():
        texts = [each.text.strip() for each in blocks(page)]
        missing = [words for words in listed if not any(text.startswith(words) for text in texts)]
        assert missing == []


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(create_app())


@pytest.fixture(scope="module")
def routes() -> set[tuple[str, str]]:
    """Method and path of every route, the variables of a path as ``*``."""
    service = MagicMock(settings=ServerConfig())
    service.stores.engines = {}
    paths = create_server(service).openapi()["paths"]
    return {
        (method.upper(), re.sub(r"\{[^}]*\}", "*", path))
        for path, methods in paths.items()
        for method in methods
    }


def check_gritlm(program: Any, words: list[str]) -> None:
    """Parse a command line of ours; an unknown command, option or value raises an error."""
    command, rest = program, list(words)
    while rest and not rest[0].startswith("-") and getattr(command, "commands", None):
        command = command.commands[rest.pop(0)]
    command.make_context("gritlm", rest)


def check_python(words: list[str]) -> None:
    """Require that a script or module exists."""
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words[1]
    else:
        assert (ROOT / words[0]).is_file(), words[0]


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words[0]


def check_curl(routes: set[tuple[str, str]], words: list[str]) -> None:
    """Require that the server has the route, and that the body is JSON."""
    body = words[words.index("-d") + 1] if "-d" in words else None
    method = words[words.index("-X") + 1] if "-X" in words else ("POST" if body else "GET")
    (path,) = [word.removeprefix(PLACE) for word in words if word.startswith(PLACE)]
    json.loads(body or "{}")
    same = {known for verb, known in routes if verb == method}
    assert any(re.fullmatch(re.escape(known).replace(r"\*", "[^/]+"), path) for known in same), path


def check_docker(words: list[str]) -> None:
    files = [words[place + 1] for place, word in enumerate(words) if word == "-f"]
    assert all((ROOT / name).is_file() for name in files), files


def words_of(line: str) -> list[str]:
    """Return the words of a command without variables in front and without ``torchrun``."""
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return ["gritlm", *words[words.index("gritlm") + 1 :]] if words[0] == "torchrun" else words


@pytest.mark.parametrize("block", of("", "bash", "sh"))
def test_the_commands_that_are_shown_exist(block: Block, program: Any, routes: set[Any]) -> None:
    if is_shown(block):
        return
    for line in commands(block.text):
        name, *words = words_of(line)
        checks = {
            "gritlm": lambda given: check_gritlm(program, given),
            "python": check_python,
            "make": check_make,
            "curl": lambda given: check_curl(routes, given),
            "docker": check_docker,
        }
        assert name in {*checks, *OTHERS}, f"{block.place}: {name}; list the block in SHOWN"
        checks.get(name, len)(words)


@pytest.mark.parametrize(
    "line", ["serve --no-such-option", "no-such-command", "ask Why --top-k many", "embed --file"]
)
def test_a_wrong_command_is_found(line: str, program: Any) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such|valid integer|argument|no-such-command"):
        check_gritlm(program, line.split())


@pytest.mark.parametrize("block", of("python"))
def test_the_python_that_is_shown_is_run_and_fits_the_library(block: Block) -> None:
    by_folder = [test for folder, test in RUN_FOLDERS.items() if block.page.startswith(folder)]
    (test,) = by_folder or [RUN[block.page]]
    named = block.page if by_folder == [] else block.page.split("/")[1]
    assert Path(named).name in (ROOT / test).read_text(encoding="utf-8")
    check_calls(ast.parse(block.text))


def check_calls(tree: ast.AST) -> None:
    """Require that imported names of ours exist and take the keywords of their calls."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gritlm"):
            module = importlib.import_module(str(node.module))
            known |= {name.name: getattr(module, name.name) for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = target(node.func, known)
            if called is not None and not any(each.arg is None for each in node.keywords):
                keywords = {str(each.arg): None for each in node.keywords}
                inspect.signature(called).bind_partial(*node.args, **keywords)


def target(function: ast.expr, known: dict[str, Any]) -> Any:
    """Return the object of ours that is called; None for others."""
    if isinstance(function, ast.Name):
        return known.get(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return getattr(known.get(function.value.id, SimpleNamespace()), function.attr, None)
    return None


def test_a_call_with_a_wrong_keyword_is_found() -> None:
    with pytest.raises(TypeError, match="no_such"):
        check_calls(ast.parse("from gritlm.rag import RagEngine\nRagEngine.open('a', no_such=1)"))
    with pytest.raises(AttributeError, match="NoSuch"):
        check_calls(ast.parse("from gritlm import NoSuch"))


@pytest.mark.parametrize("block", of("json", "jsonl"))
def test_the_json_that_is_shown_can_be_read(block: Block) -> None:
    text = block.text.strip()
    if text.startswith('"'):
        text = "{" + text + "}"  # a part of an object
    for line in text.splitlines():
        assert json.loads(line)


@pytest.mark.parametrize("block", of("toml"))
def test_the_toml_that_is_shown_has_settings_that_exist(block: Block, tmp_path: Path) -> None:
    found = tomllib.loads(block.text)
    if "keys" in found:
        (tmp_path / "keys.toml").write_text(block.text, encoding="utf-8")
        stores = [store for key in found["keys"] for store in key["stores"]]
        assert read_keys(tmp_path / "keys.toml", stores)
    elif "training" in found:
        assert from_mapping(found, TrainConfig, source=block.page)
    else:  # a task, which tests/evaluation/test_docs.py reads
        assert {"name", "type", "instruction"} <= {*found}


@pytest.mark.parametrize("block", of("yaml"))
def test_the_yaml_that_is_shown_can_be_read(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("block", of("text"))
def test_output_that_is_shown_stands_below_its_code(block: Block) -> None:
    before = [each for each in blocks(block.page) if each.line < block.line]
    assert before[-1].language == "python"
    assert block.page.startswith("docs/concepts/"), "only tests/test_concepts.py compares output"
