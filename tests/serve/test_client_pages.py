"""Code of docs/clients and quickstart.md, against a server with a tiny model and a store."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gritlm import GritLM
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import served

FOLDER = Path(__file__).parents[2] / "docs" / "clients"
# The code of a Chinese page is that of the English one.
PAGES = sorted(page for page in FOLDER.glob("*.md") if not page.name.endswith(".zh.md"))
ADDRESS = "http://127.0.0.1:8000"
LIBRARY = {"id": "library", "text": "The library opens at nine. On Sundays it is closed."}
# Packages that need another version of a package than the tests; their code was run apart.
APART = {"llama_index.llms.openai_like", "llama_index.embeddings.openai_like"}


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


WITH_PYTHON = [page for page in (*PAGES, FOLDER.parent / "quickstart.md") if blocks("python", page)]


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> GritLM:
    return GritLM(tiny_model(max_position_embeddings=1024), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def address(model: GritLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = StoreAt(tmp_path_factory.mktemp("store") / "documents")
    settings = ServerConfig(port=0, names=("gritlm",))
    with served(model, settings, Limits(max_num_seqs=2), store) as live:
        live.http.post("/v1/rag/documents", json={"documents": [LIBRARY]}).raise_for_status()
        yield live.url


# Some clients leave their connections to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_client_page_runs(
    page: Path,
    address: str,
    model: GritLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    monkeypatch.setattr("gritlm.GritLM", lambda: model)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for code in blocks("python", page):
        needed = set(re.findall(r"^from (\S+) import", code, re.M)) & APART
        local = compile(code.replace(ADDRESS, address), page.name, "exec")
        if all(map(is_installed, needed)):
            exec(local, namespace)
            if "print(" in code:
                assert capsys.readouterr().out.strip()
    for name in ("client", "stream"):
        getattr(namespace.get(name), "close", lambda: None)()


def curls() -> list[str]:
    pages = (FOLDER / "index.md", FOLDER / "curl.md")
    code = "".join(block for page in pages for block in blocks("bash", page))
    return [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("command", curls())
def test_a_curl_command_is_answered(command: str, address: str) -> None:
    program, *words = shlex.split(command)
    assert program == "curl"
    options = {word: words[place + 1] for place, word in enumerate(words) if word in "-H -d -X"}
    (url,) = [word for word in words if word.startswith(ADDRESS)]
    body = json.loads(options["-d"]) if "-d" in options else None
    method = options.get("-X", "POST" if body else "GET")
    answer = httpx.request(method, url.replace(ADDRESS, address), json=body, timeout=30)
    assert answer.status_code == 200, answer.text


def test_the_overview_lists_every_page() -> None:
    overview = (FOLDER / "index.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", overview))
    assert linked == {page.name for page in PAGES} - {"index.md"}
