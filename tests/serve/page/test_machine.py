"""The panel of the model and the machine, and the figures behind it."""

from __future__ import annotations

import re
from typing import Any

from tests.serve.conftest import TEXTS

GET = "async (path) => (await fetch(path)).text()"


def figures(page: Any) -> dict[str, str]:
    """Return the values of the panel by their names."""
    rows = page.locator("#machine-body").evaluate(
        """body => [...body.querySelectorAll("dt")].map(
          (each) => [each.textContent, each.nextElementSibling.textContent])"""
    )
    return dict(rows)


def test_the_panel_shows_the_model_its_memory_and_its_load(visit):
    here = visit()
    page = here.page
    here.settings(length=6)
    here.say("Hello")
    here.answered(1)
    page.get_by_role("button", name="tiny: model and machine").click()
    page.get_by_role("dialog", name="Model and machine").wait_for()
    page.locator("#machine-body dt").first.wait_for()
    here.shot("machine")
    shown = figures(page)
    (model, *_) = page.evaluate("async () => (await (await fetch('v1/models')).json()).data")
    assert shown["Number format"] == model["dtype"] == "float32"
    assert shown["Device"] == "cpu"
    assert shown["Context length"] == f"{model['max_model_len']:,} tokens"
    assert model["parameters"] > 1000
    assert model["memory_bytes"] >= 4 * model["parameters"]
    assert shown["Other adapters"] == "none"
    assert re.fullmatch(r"\d+:\d\d:\d\d", shown["Running for"])
    assert shown["Requests waiting"] == "0"
    count = re.match(r"(\d+) documents?: ", shown["Store default"])
    assert count
    assert int(count[1]) >= len(TEXTS)
    assert re.search(r"[\d,]+ tokens read, [1-9][\d,]* generated", shown["Since the start"])
    page.get_by_text(re.compile(r"^\d+ tokens a second$")).first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_the_memory_of_kv_slots_is_a_metric(visit):
    page = visit().page
    here = page.evaluate(GET, "metrics")
    found = re.search(r"^gritlm_kv_cache_bytes (\S+)$", here, re.MULTILINE)
    assert found
    stores = page.evaluate("async () => (await (await fetch('v1/rag/stores')).json()).data")
    (store,) = stores
    assert store["disk_bytes"] > 0
    assert store["memory_bytes"] >= 0


def test_the_samples_of_a_metric_are_summed_over_their_labels(visit):
    text = """# HELP gritlm_a_total x
gritlm_a_total{endpoint="/v1/chat"} 3.0
gritlm_a_total{endpoint="{b} c"} 4.5
gritlm_b 1e3
python_info 5
"""
    found = visit().page.evaluate(
        "async (text) => (await import('./static/machine.js')).sums(text)", text
    )
    assert found == {"gritlm_a_total": 7.5, "gritlm_b": 1000}


def test_figures_that_a_key_may_not_see_are_left_out_with_the_reason(visit):
    here = visit(may_fail=True)
    error = {"error": {"message": "the key needs the right admin", "code": "forbidden"}}
    here.page.route("**/metrics", lambda route: route.fulfill(status=403, json=error))
    here.page.get_by_role("button", name="tiny: model and machine").click()
    here.page.get_by_text("the key needs the right admin").wait_for()
    shown = figures(here.page)
    assert "Weights" in shown
    assert "Requests running" not in shown


def test_a_server_that_is_gone_is_reported_in_the_panel(visit):
    here = visit(may_fail=True)
    here.page.locator("#server-model", has_text="tiny").wait_for()
    here.page.route("**/v1/models", lambda route: route.abort())
    here.page.get_by_role("button", name="tiny: model and machine").click()
    here.page.locator("#machine-body").get_by_text("cannot be reached").wait_for()
