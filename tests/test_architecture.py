"""The rooms of the package: which may import which, and docs/structure.md, which shows them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests import structure
from tests.structure import MAY_IMPORT, SRC

HOMES = {
    "accelerate": {"lm", "train"},
    "bitsandbytes": {"train"},
    "blake3": {"rag"},
    "charset_normalizer": {"rag"},
    "datasets": {"train", "evaluation"},
    "fastapi": {"serve", "scale"},
    "fsspec": {"rag", "scale"},
    "gguf": {"lm"},
    "haystack": {"integrations"},
    "httptools": {"serve"},
    "httpx": {"integrations"},
    "huggingface_hub": {"lm", "evaluation"},
    "jinja2": {"evaluation", "lm", "serve"},
    "lancedb": {"rag", "scale"},
    "langchain_core": {"integrations"},
    "liger_kernel": {"train"},
    "llama_index": {"integrations"},
    "llvmlite": {"lm"},
    "lm_eval": {"evaluation", "integrations"},
    "lmdb": {"rag"},
    "mammoth": {"rag"},
    "matplotlib": {"train", "evaluation"},
    "mteb": {"evaluation", "integrations"},
    "numba": {"lm"},
    "PIL": {"lm"},
    "openai": {"adapt"},
    "openpyxl": {"rag"},
    "opentelemetry": {"serve"},
    "orjson": {"serve", "scale"},
    "peft": {"lm", "train"},
    "prometheus_client": {"serve"},
    "pptx": {"rag"},
    "psutil": {"lm"},
    "pillow_heif": {"lm"},
    "pyarrow": {"cli", "rag", "scale"},
    "pydantic": {"serve", "integrations"},
    "pypdf": {"rag"},
    "pypdfium2": {"rag"},
    "ray": {"scale"},
    "rich": {"cli"},
    "semantic_text_splitter": {"rag"},
    "soundfile": {"lm"},
    "sentence_transformers": {"train", "evaluation", "integrations"},
    "starlette": {"serve", "scale"},
    "tokenizers": {"lm"},
    "transformers": {"lm", "train", "cli", "rag", "scale"},
    "typer": {"cli"},
    "uvicorn": {"serve"},
    "xxhash": {"rag"},
}

HTTP = {"fastapi", "httptools", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn"}
WITHOUT_TORCH = (
    "atomic",
    "distribution",
    "errors",
    "config",
    "jsonl",
    "lazy",
    "printable",
    "prompts",
)


def module_name(path: Path) -> str:
    parts = ["gritlm", *path.relative_to(SRC).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def imports(module: str, *, types: bool = True) -> Iterator[str]:
    """Modules that a module names, wherever it does; with or without ``if TYPE_CHECKING``."""
    todo: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            names = (f"{node.module}.{name.name}" for name in node.names)
            yield from {name if name in MODULES else str(node.module) for name in names}
        if types or not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            todo.extend(ast.iter_child_nodes(node))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def is_public_surface(module: str) -> bool:
    """Return whether a module is a package's ``__init__``, which names modules for users alone."""
    return module in MODULES and MODULES[module].name == "__init__.py"


def in_engine(module: str) -> bool:
    return f"{module}.".startswith("gritlm.serve.engine.")


def inside(module: str) -> bool:
    return module == "gritlm" or module.startswith("gritlm.")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_rooms_below_its_own(module):
    own = room(module)
    seen = {room(name) for name in imports(module) if inside(name)}
    assert seen - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("module", MODULES)
def test_an_outside_library_is_used_only_at_home(module):
    used = {name.split(".")[0] for name in imports(module) if not inside(name)}
    astray = {library for library in used & HOMES.keys() if room(module) not in HOMES[library]}
    assert not astray


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in WITHOUT_TORCH])
def test_the_ground_floor_knows_no_torch(module):
    used = {name.split(".")[0] for name in imports(module)}
    assert not used & {"torch", "transformers", "numpy"}


@pytest.mark.parametrize("types", [False, True])
def test_no_modules_import_each_other_in_a_circle(types):
    names = {name for name in MODULES if not is_public_surface(name)}
    graph = {
        name: {other for other in imports(name, types=types) if other in names} - {name}
        for name in names
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", [name for name in MODULES if in_engine(name)])
def test_the_serving_engine_knows_no_http(module):
    used = set(imports(module))
    assert not {name.split(".")[0] for name in used} & HTTP
    assert not {name for name in used if room(name) == "serve" and not in_engine(name)}


@pytest.mark.parametrize("module", ["gritlm", "gritlm.cli.app"])
def test_importing_loads_no_heavy_library(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy"} & set(done.stdout.split())


def test_the_structure_document_shows_the_rooms_and_files_that_exist():
    """`python tests/structure.py` writes it again."""
    assert structure.DOCUMENT.read_text(encoding="utf-8") == structure.written()
