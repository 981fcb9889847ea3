"""Reports of adaptations: the route over the files of runs, and the tab of the page in Chromium."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.adapt import measuring, run_folder
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.verdict import Difference, Verdict
from gritlm.evaluation.bootstrap import Estimate
from gritlm.serve.api import adaptations
from gritlm.serve.app import open_paths
from gritlm.serve.config import ServerConfig
from gritlm.serve.http.paths import ADAPTATIONS, MODELS, RIGHTS_OF
from tests.browser import chromium
from tests.serve.conftest import Served, served
from tests.serve.visiting import Visit

HOSTILE = '<img src=x onerror="alert(1)">'
SENTENCE = "use this adapter: better at real-questions 60.0 -> 66.5 (+2.0 to +11.0)"


def write(folder: Path, *, sentence: str = SENTENCE, task: str = "real-questions") -> None:
    """Write the files of a finished run into the folder of an adapter."""
    run = RunFolder(folder)
    found = Verdict(
        "use",
        sentence,
        (
            Difference(task, 60.0, 66.5, Estimate(6.5, 2.0, 11.0)),
            Difference("Banking77", 80.0, 78.0, Estimate(-2.0, -3.5, -0.5)),
            Difference("held-out-answers (fresh)", 10.0, 10.5, Estimate(0.5, None, None)),
        ),
    )
    run.path(measuring.VERDICT).parent.mkdir(parents=True, exist_ok=True)
    run.path(measuring.VERDICT).write_text(json.dumps(asdict(found)), encoding="utf-8")
    steps = {
        "passages": {"inputs": "x", "counts": {"kept": 1200, "duplicate": 3}, "seconds": 1.5},
        "training": {"inputs": "y", "counts": {"steps": 290}, "seconds": 1500.0},
    }
    state = {"version": 1, "settings": {}, "documents": "d", "steps": steps}
    run.path(run_folder.FILE).write_text(json.dumps(state), encoding="utf-8")


@pytest.fixture(scope="module")
def runs(
    make_adapter: Callable[..., Path], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    names = ("medicine", "law")
    return {name: make_adapter(folder, tmp_path_factory.mktemp(name)) for name in names}


@pytest.fixture(scope="module")
def model(folder: Path, runs: dict[str, Path]) -> GritLM:
    adapters = {name: str(path) for name, path in runs.items()}
    return GritLM(folder, adapters=adapters, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def live(model: GritLM) -> Iterator[Served]:
    with served(model, ServerConfig(port=0, names=("tiny",))) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_runs(runs: dict[str, Path]) -> Iterator[None]:
    yield
    for folder in runs.values():
        for name in (adaptations.VERDICT, adaptations.STATE):
            (folder / name).unlink(missing_ok=True)


def listed(live: Served) -> list[dict[str, Any]]:
    found = live.http.get(ADAPTATIONS)
    found.raise_for_status()
    return list(found.json()["data"])


def test_the_names_of_the_files_are_those_that_a_run_writes(tmp_path):
    run = RunFolder(tmp_path)
    assert tmp_path / adaptations.VERDICT == run.path(measuring.VERDICT)
    assert tmp_path / adaptations.STATE == run.path(run_folder.FILE)


def test_only_adapters_with_a_report_are_listed(live, runs):
    assert listed(live) == []
    write(runs["medicine"])
    (found,) = listed(live)
    assert (found["id"], found["problem"]) == ("medicine", None)
    assert found["verdict"]["sentence"] == SENTENCE
    first = found["verdict"]["differences"][0]
    assert first == {
        "task": "real-questions",
        "before": 60.0,
        "after": 66.5,
        "estimate": {"value": 6.5, "low": 2.0, "high": 11.0},
    }
    assert found["steps"]["passages"] == {
        "counts": {"kept": 1200, "duplicate": 3},
        "seconds": 1.5,
    }


def test_a_key_is_needed_where_the_server_has_keys(live):
    assert ADAPTATIONS not in open_paths(live.service.settings)
    assert RIGHTS_OF[ADAPTATIONS] == RIGHTS_OF[MODELS]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (adaptations.VERDICT, b"{", "adapt/verdict.json is damaged; give the command"),
        (adaptations.VERDICT, b"\xff\xfe", "adapt/verdict.json is damaged"),
        (adaptations.VERDICT, b'{"decision": "maybe"}', "is damaged at decision"),
        (adaptations.VERDICT, b" " * (adaptations.MAX_BYTES + 1), "has over 1,048,576 bytes"),
        (adaptations.STATE, b'{"steps": {"x": {"counts": {}, "seconds": NaN}}}', "steps.x"),
        (adaptations.STATE, b'{"steps": {"a\\nb": 1}}', "adapt/adapt.json is damaged at steps.a"),
        (adaptations.STATE, None, "adapt/adapt.json cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_the_other_report_is_shown(live, runs, name, content, problem):
    for folder in runs.values():
        write(folder)
    path = runs["law"] / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    found = {each["id"]: each for each in listed(live)}
    assert found["medicine"]["problem"] is None
    assert found["law"]["verdict"] is None
    assert problem in found["law"]["problem"]
    assert "\n" not in found["law"]["problem"]


def test_the_page_shows_the_reports_and_hides_the_tab_without_any(browser, live, runs, tmp_path):
    shots = Path(os.environ.get("GRITLM_SCREENSHOTS", tmp_path))
    here = Visit(browser, live.url, "adapted", shots)
    with here.page.expect_response(f"**{ADAPTATIONS}"):
        here.page.reload()
    assert not here.page.get_by_role("tab", name="Adapters").is_visible()
    assert here.page.locator("#chat").is_visible()
    write(runs["medicine"])
    write(runs["law"], sentence=HOSTILE, task=HOSTILE)
    here.page.goto(f"{live.url}/?#adapted")
    page = here.page
    page.get_by_role("heading", name="medicine").wait_for()
    page.get_by_text("Every step").first.click()
    here.shot("adapters")
    first, second = page.locator(".card.adapted").all()
    assert SENTENCE in first.inner_text()
    rows = [row.inner_text().split("\t") for row in first.locator("tbody tr").all()]
    assert rows[0] == ["real-questions", "60.0", "66.5", "+6.5", "+2.0 to +11.0"]
    assert rows[2] == ["held-out-answers (fresh)", "10.0", "10.5", "+0.5", "unknown"]
    assert rows[3] == ["passages", "1,200 kept, 3 duplicate", "1.50 s"]
    assert HOSTILE in second.inner_text()
    assert page.locator("#adaptations img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    here.close()
    assert here.complaints == []


def test_the_reports_are_shown_in_chinese(browser, live, runs, tmp_path):
    write(runs["medicine"])
    here = Visit(browser, live.url, "adapted", tmp_path, locale="zh-CN")
    here.page.get_by_role("heading", name="medicine").wait_for()
    assert here.page.get_by_role("heading", level=1).inner_text() == "适配器"
    columns = here.page.locator(".card.adapted thead").first.locator("th").all_inner_texts()
    assert columns == ["任务", "训练前", "训练后", "差值", "95% 置信区间"]
    assert here.page.locator(".card.adapted tbody td").nth(3).inner_text() == "+2.0 至 +11.0"
    here.close()
    assert here.complaints == []
