"""What docs/serving.md, the board and the container file say is so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gritlm import GritLM
from gritlm.cli.commands.serve import LimitOptions, ListenOptions, ServedModelOptions, StoreOptions
from gritlm.cli.options import PlacementOptions
from gritlm.serve import errors
from gritlm.serve.app import create_app
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.server import running
from gritlm.serve.service import Service
from tests.serve.visiting import serving

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
# Options of docker, torchrun, lm-eval and `gritlm export`.
OTHERS = {"--help", "--build-arg", "--nproc-per-node", "--format", "--model", "--tasks"}
SIGNS = "_total|_bucket|_count|_sum"


@pytest.fixture(scope="module")
def service(tiny_model: Callable[..., Path]) -> Iterator[Service]:
    model = GritLM(tiny_model(), dtype="float32", device="cpu")
    with running(model, ServerConfig(), Limits(max_num_seqs=1)) as made:
        yield made


@pytest.fixture(scope="module")
def families(service: Service) -> dict[str, str]:
    """Names of the metrics, with their kinds."""
    text = service.metrics.exposition().decode()
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def section(heading: str) -> str:
    (found,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    return found


def test_every_endpoint_is_told(service):
    paths = create_app(service).openapi()["paths"]
    known = {f"{method.upper()} {path}" for path, each in paths.items() for method in each}
    told = set(re.findall(r"`((?:GET|POST|DELETE) /[^`]*)`", section("Endpoints")))
    spelled = {re.sub(r"\{name[^}]*\}", "{name}", each) for each in known}
    assert told == spelled | {"GET /openapi.json", "GET /docs"}


def test_every_metric_is_told_with_its_kind(families):
    rows = re.findall(r"^\| (`gritlm_.*?) \| (\w+) \|", section("Metrics"), re.M)
    told = {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}
    assert {name.removesuffix("_total"): kind for name, kind in told.items()} == families


def test_the_board_asks_for_metrics_that_there_are(families):
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))
    asked = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"\bgritlm_\w+", target["expr"]))
    assert {re.sub(rf"({SIGNS})$", "", name) for name in asked} == set(families)


def test_every_code_that_is_told_is_one_that_the_server_has():
    source = "".join(
        path.read_text(encoding="utf-8") for path in Path(errors.__file__).parent.rglob("*.py")
    )
    for _, codes in re.findall(r"^\| (\d{3}) \| (.*?) \|", section("Refused requests"), re.M):
        for code in re.findall(r"`(\w+)`", codes):
            assert f'"{code}"' in source


def options() -> dict[str, str]:
    """Names of the environment variables of ``gritlm serve`` by option."""
    found = {}
    kinds = (ListenOptions, LimitOptions, StoreOptions, ServedModelOptions, PlacementOptions)
    for kind in kinds:
        found |= {f"--{name.replace('_', '-')}": name.upper() for name in kind.__annotations__}
    return found


@pytest.mark.parametrize("path", ["docs/serving.md", "deploy/nginx.conf"])
def test_options_that_are_named_exist(path):
    text = re.sub(r"^docker .*$", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.M)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= {*options(), *OTHERS}


@pytest.mark.parametrize("path", ["docs/serving.md", "Dockerfile"])
def test_variables_that_are_named_exist(path):
    named = re.findall(r"\bGRITLM_([A-Z_]+)", (ROOT / path).read_text(encoding="utf-8"))
    assert set(named) <= {*options().values(), "CACHE"}


def test_the_examples_that_are_shown_run(tmp_path: Path):
    code = "".join(re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S))
    (curls,) = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)
    with serving(tmp_path, store=True, names=("gritlm",)) as address:
        here: dict[str, Any] = {}
        exec(compile(code.replace("http://127.0.0.1:8000", address), "serving.md", "exec"), here)
        here["client"].close()
        assert len(here["query"].data[0].embedding) == 48
        assert isinstance(here["found"].choices[0].message.parsed, here["Person"])
        assert here["call"].function.name == "weather"
        for path, body in re.findall(r"curl http://[^/]+(\S+).*?-d '(.*?)'\n", curls, re.S):
            answer = httpx.post(address + path, json=json.loads(body))
            assert answer.status_code == 200, answer.text
    assert answer.json()["results"]
