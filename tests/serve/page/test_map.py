"""Clusters on the map of texts, and the map of the stored documents."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.serve.conftest import TEXTS

CLUSTERS = """async (rows) => {
  const { clustersOf } = await import("./static/clusters.js");
  return clustersOf(rows);
}"""


def groups(sizes: tuple[int, ...], noise: float) -> np.ndarray:
    """Return vectors (N, 24) around as many directions, group after group."""
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(len(sizes), 24))
    rows = [centre for centre, size in zip(centres, sizes, strict=True) for _ in range(size)]
    return np.array(rows) + noise * generator.normal(size=(sum(sizes), 24))


def test_groups_of_vectors_are_found_and_named_by_the_text_nearest_to_the_centre(visit):
    page = visit().page
    vectors_ND = groups((5, 3, 7), 0.2)
    found = page.evaluate(CLUSTERS, vectors_ND.tolist())
    members = [each["members"] for each in found]
    assert members == [[*range(5)], [*range(5, 8)], [*range(8, 15)]]
    units_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    for each in found:
        centre_D = units_ND[each["members"]].sum(0)
        nearest = max(each["members"], key=lambda n: units_ND[n] @ centre_D)
        assert each["label"] == nearest
    assert page.evaluate(CLUSTERS, vectors_ND.tolist()) == found


def test_a_direction_that_all_vectors_share_hides_no_group(visit):
    page = visit().page
    shared_D = 20 * np.random.default_rng(5).normal(size=24)
    vectors_ND = groups((5, 3, 7), 0.2) + shared_D
    found = page.evaluate(CLUSTERS, vectors_ND.tolist())
    assert [each["members"] for each in found] == [[*range(5)], [*range(5, 8)], [*range(8, 15)]]


def test_a_single_outlier_is_no_cluster(visit):
    page = visit().page
    vectors_ND = groups((30, 30), 0.3)
    vectors_ND[7] = -10 * vectors_ND[40]
    sizes = [len(each["members"]) for each in page.evaluate(CLUSTERS, vectors_ND.tolist())]
    assert min(sizes) >= 10


def test_vectors_without_groups_are_one_cluster(visit):
    page = visit().page
    scattered = np.random.default_rng(1).normal(size=(60, 300)).tolist()
    for rows in (scattered, scattered[:3], [scattered[0]] * 6):
        (only,) = page.evaluate(CLUSTERS, rows)
        assert only["members"] == [*range(len(rows))]


def embedded(here: Any) -> None:
    here.page.locator("#embed-form button[type=submit]").click()
    here.page.locator(".plane").wait_for()


def test_clusters_are_drawn_and_listed_with_their_labels(visit):
    here = visit("embed")
    page = here.page
    near = np.kron(np.eye(2), np.ones((4, 1))) + 0.01
    rows = [{"index": n, "embedding": _base64(row)} for n, row in enumerate(near)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    page.route("**/v1/embeddings", lambda route: route.fulfill(json={"data": rows, "usage": usage}))
    page.locator("#embed-texts").fill("\n".join(f"text {n}" for n in range(8)))
    embedded(here)
    here.shot("embed-clusters")
    assert page.locator(".plane .area").count() == 2
    assert page.locator(".cluster h3").all_inner_texts() == ["text 0 (4)", "text 4 (4)"]
    assert page.locator(".plane .point").count() == 8
    colours = page.locator(".plane circle").evaluate_all(
        "all => all.map((each) => getComputedStyle(each).fill)"
    )
    assert len(set(colours)) == 2
    assert colours[0] == colours[3] != colours[4] == colours[7]
    assert "2 clusters" in page.locator(".plane").get_attribute("aria-label")


def _base64(row: np.ndarray) -> str:
    from base64 import b64encode

    return b64encode(row.astype("<f4").tobytes()).decode()


def test_the_titles_of_the_stored_documents_are_mapped(visit):
    here = visit("embed")
    page = here.page
    page.get_by_role("button", name="Use the titles of your documents").click()
    page.wait_for_function("() => document.getElementById('embed-texts').value !== ''")
    lines = page.locator("#embed-texts").input_value().split("\n")
    assert set(TEXTS) <= set(lines)
    embedded(here)
    assert page.locator(".plane .point").count() == len(lines)


def test_many_texts_are_mapped_without_a_matrix(visit):
    here = visit("embed")
    here.page.locator("#embed-texts").fill("\n".join(f"text number {n}" for n in range(60)))
    embedded(here)
    here.page.get_by_text("is drawn for up to 50 texts").wait_for()
    assert here.page.locator(".plane .point").count() == 60
    assert here.page.locator(".heat").count() == 0


def test_the_matrix_is_read_with_the_keyboard(visit):
    here = visit("embed")
    page = here.page
    page.locator("#embed-texts").fill("one\ntwo\nthree")
    embedded(here)
    page.locator(".heat").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator("#heat-readout strong").inner_text() == "1.000"
    page.keyboard.press("ArrowRight")
    assert page.locator("#heat-readout p").all_inner_texts() == ["1 one", "2 two"]
