"""Models and tasks become a report, whatever goes wrong with single ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gritlm.errors import InputError, MissingExtraError, ModelError
from gritlm.evaluation import kinds, loading
from gritlm.evaluation.cache import ResultCache
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.run import INTERRUPTED, Step, evaluate
from gritlm.evaluation.runner import RunnerOptions
from gritlm.evaluation.tasks.suites import SuitePlan
from tests.evaluation import made

TASKS = (made.chosen("sts"), made.chosen("search"), made.chosen("mmlu", "generation"))
PLAN = SuitePlan("tasks", TASKS, limit=7)


class Models:
    """Counts what is loaded, and what is in memory at a time."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.mode, self.held, self.most = "unified", 0, 0
        self.refuses: set[str] = set()

    @contextmanager
    def load(self, subject: Any, **options: Any) -> Iterator[Any]:
        if subject.name in self.refuses:
            raise ModelError(f"{subject.name}: made for another model")
        self.loaded.append(subject.name)
        self.held += 1
        self.most = max(self.most, self.held)
        yield loading.ReadyModel(
            SimpleNamespace(mode=self.mode), "as it is" * (self.mode != "unified")
        )
        self.held -= 1


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    made_up = Models()
    monkeypatch.setattr(loading, "loaded", made_up.load)
    return made_up


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cache")


def run(cache: ResultCache, counting: made.Counting, *names: str, **more: Any) -> Report:
    subjects_ = [made.subject(name) for name in names or ("ours",)]
    return evaluate(subjects_, PLAN, cache=cache, measures=counting.measures(), **more)


def scored(report: Report, model: int = 0) -> list[str]:
    return [result.task for result in report.models[model].results]


def test_every_task_is_measured_on_every_model_one_model_at_a_time(
    models: Models, cache: ResultCache
):
    counting = made.Counting()
    report = run(cache, counting, "ours", "theirs")
    assert scored(report, 0) == scored(report, 1) == ["sts", "search", "mmlu"]
    assert models.loaded == ["ours", "theirs"]
    assert models.most == 1
    assert models.held == 0
    assert {how.limit for *_, how in counting.asked} == {7}
    assert not report.is_empty


def test_a_rerun_measures_nothing_and_loads_nothing(models: Models, cache: ResultCache):
    first = run(cache, made.Counting())
    again = made.Counting()
    second = run(cache, again)
    assert again.asked == []
    assert models.loaded == ["ours"]
    assert second.models[0].results == first.models[0].results
    assert (first.models[0].computed, second.models[0].computed) == (
        ("sts", "search", "mmlu"),
        (),
    )


def test_a_rerun_measures_only_what_is_missing(models: Models, cache: ResultCache):
    run(cache, made.Counting(search=ConnectionError("no network")))
    again = made.Counting()
    assert scored(run(cache, again)) == ["sts", "search", "mmlu"]
    assert again.names == ["search"]


def test_a_task_that_cannot_be_measured_is_skipped_with_the_reason(
    models: Models, cache: ResultCache
):
    counting = made.Counting(
        sts=InputError("data/test.jsonl:3: no score"), mmlu=ConnectionError("no network")
    )
    report = run(cache, counting)
    assert scored(report) == ["search"]
    assert [(each.task, each.reason) for each in report.models[0].skipped] == [
        ("sts", "data/test.jsonl:3: no score"),
        ("mmlu", "ConnectionError: no network"),
    ]


def test_nothing_measured_is_an_empty_report(models: Models, cache: ResultCache):
    errors = {name: OSError("offline") for name in ("sts", "search", "mmlu")}
    report = run(cache, made.Counting(**errors))
    assert report.is_empty
    assert len(report.models[0].skipped) == 3


def test_an_interruption_keeps_what_is_done_and_names_the_rest(models: Models, cache: ResultCache):
    report = run(cache, made.Counting(search=KeyboardInterrupt()), "ours", "theirs")
    assert report.stopped
    assert scored(report) == ["sts"]
    assert [each.task for each in report.models[0].skipped] == ["search", "mmlu"]
    assert len(report.models[1].skipped) == 3
    assert {each.reason for each in report.models[1].skipped} == {INTERRUPTED}
    assert models.held == 0
    again = made.Counting()
    run(cache, again, "ours")
    assert again.names == ["search", "mmlu"]


def test_an_encoder_says_that_it_does_not_write_and_is_measured_otherwise(
    models, cache: ResultCache
):
    report = evaluate(
        [made.subject("minilm", encoder=True)],
        PLAN,
        cache=cache,
        measures=made.Counting().measures(),
    )
    assert scored(report) == ["sts", "search"]
    (skipped,) = report.models[0].skipped
    assert (skipped.half, "only embeds" in skipped.reason) == ("generation", True)


def test_a_model_that_only_writes_says_so(models: Models, cache: ResultCache):
    models.mode = "generative"
    report = run(cache, made.Counting())
    assert scored(report) == ["mmlu"]
    reasons = {each.reason for each in report.models[0].skipped}
    assert reasons == {"it only writes: as it is"}


def test_a_model_that_cannot_be_loaded_is_refused_and_what_came_before_is_kept(models, cache):
    models.refuses = {"theirs"}
    with pytest.raises(ModelError, match="made for another model"):
        run(cache, made.Counting(), "ours", "theirs")
    again = made.Counting()
    assert scored(run(cache, again)) == ["sts", "search", "mmlu"]
    assert again.asked == []


def test_a_missing_library_ends_the_run(models: Models, cache: ResultCache):
    with pytest.raises(MissingExtraError):
        run(cache, made.Counting(mmlu=MissingExtraError("pip install x")))


def test_another_number_format_is_measured_again(models: Models, cache: ResultCache):
    run(cache, made.Counting(), options=RunnerOptions(dtype="float32", device="cpu"))
    again = made.Counting()
    run(cache, again, options=RunnerOptions(dtype="bfloat16", device="cpu"))
    assert len(again.asked) == 3


def test_whoever_watches_sees_every_task_begin_and_end(models: Models, cache: ResultCache):
    seen: list[Step] = []
    run(cache, made.Counting(sts=OSError("x")), watch=seen.append)
    assert [(step.number, step.task) for step in seen if step.done is None] == [
        (1, "sts"),
        (2, "search"),
        (3, "mmlu"),
    ]
    ends = [step.done for step in seen if step.done is not None]
    assert [end.reason for end in ends] == ["OSError: x", "", ""]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: BaseException):
    tried: list[int | None] = []

    def measure(batch_size: int | None) -> str:
        tried.append(batch_size)
        if batch_size is None or batch_size > 16:
            raise error
        return "done"

    batch = kinds.BatchLimits()
    assert batch.halving(measure, default=128) == "done"
    assert tried == [None, 64, 32, 16]
    tried.clear()
    assert batch.halving(measure, default=128) == "done"  # the next task of the model
    assert tried == [16]


def test_all_tasks_of_a_model_share_what_is_known_of_its_batch(models: Models, cache: ResultCache):
    counting = made.Counting()
    run(cache, counting, "ours", "theirs", options=RunnerOptions(batch_size=8))
    batches = [how.batch for *_, how in counting.asked]
    assert {each.size for each in batches} == {8}
    assert len(set(map(id, batches))) == 2


def test_a_score_that_is_no_number_is_a_skipped_task(models: Models, cache: ResultCache):
    def measure(model: Any, task: Any, how: Any) -> list[Any]:
        return [made.result("sts", metric="perplexity", score=float("inf"))]

    plan = SuitePlan("tasks", TASKS[:1])
    report = evaluate([made.subject()], plan, cache=cache, measures={"embedding": measure})
    assert "perplexity is no number (inf)" in report.models[0].skipped[0].reason
    assert not list(Path(cache.folder or "").rglob("*.json"))


def test_what_was_known_before_is_told_apart(models: Models, cache: ResultCache):
    run(cache, made.Counting(search=ConnectionError("no network")))
    report = run(cache, made.Counting())
    assert (report.models[0].known, report.models[0].computed) == (("sts", "mmlu"), ("search",))


def test_one_text_that_is_too_much_and_other_errors_are_not_tried_again():
    tried: list[int | None] = []

    def too_much(batch_size: int | None) -> None:
        tried.append(batch_size)
        raise MemoryError

    with pytest.raises(MemoryError):
        kinds.BatchLimits(4).halving(too_much, default=64)
    assert tried == [4, 2, 1]

    def broken(batch_size: int | None) -> None:
        tried.append(batch_size)
        raise RuntimeError("shapes do not fit")

    tried.clear()
    with pytest.raises(RuntimeError, match="shapes"):
        kinds.BatchLimits(4).halving(broken, default=64)
    assert tried == [4]
