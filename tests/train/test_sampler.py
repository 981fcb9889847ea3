"""The two streams of a run: what they give, and that they go on where they were left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import pytest

from gritlm.errors import InputError
from gritlm.train.data.sampler import Stream


@dataclass(frozen=True)
class Made:
    """A source of so many rows."""

    size: int
    share: float | None = None
    title: str = "made"

    def __len__(self) -> int:
        return self.size

    @property
    def weight(self) -> float:
        return float(self.size) if self.share is None else self.share


def stream(*sizes: int, batch: int = 4, seed: int = 7, one_source: bool = True) -> Stream:
    sources = [Made(size, title=f"source {i}") for i, size in enumerate(sizes)]
    return Stream(sources, batch=batch, seed=seed, one_source=one_source)


def steps(of: Stream, count: int) -> list[list[tuple[int, int]]]:
    return [of.next() for _ in range(count)]


def rows_of(batches: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [row for batch in batches for row in batch]


BOTH = pytest.mark.parametrize("one_source", [True, False])


def test_a_pass_gives_every_row_once():
    made = stream(24)
    assert made.steps_per_pass == 6
    rows = [row for batch in steps(made, 6) for _, row in batch]
    assert sorted(rows) == list(range(24))
    assert rows != sorted(rows)
    assert made.passes == 1.0


def test_each_pass_has_an_order_of_its_own():
    made = stream(24)
    first, second = steps(made, 6), steps(made, 6)
    assert first != second
    assert sorted(rows_of(first)) == sorted(rows_of(second))


@BOTH
def test_more_generative_than_embedding_rows_are_all_used(one_source):
    embedding, generative = stream(8, seed=1), stream(800, seed=2, one_source=one_source)
    seen = set()
    for _ in range(generative.steps_per_pass):
        embedding.next()
        seen.update(generative.next())
    assert len(seen) == 800
    assert embedding.passes == pytest.approx(100)


def test_with_one_source_a_batch_is_of_one_source_and_holds_no_row_twice():
    made = stream(5, 9, 4, 13)
    for batch in steps(made, 300):
        assert len({source for source, _ in batch}) == 1
        assert len(set(batch)) == 4


def test_with_one_source_the_rest_of_a_pass_is_dropped_and_every_row_has_its_turn():
    made = stream(5)
    seen = Counter(row for batch in steps(made, 500) for _, row in batch)
    assert seen.keys() == set(range(5))
    assert min(seen.values()) > 350  # 400 on average


def test_without_one_source_no_row_is_dropped():
    made = stream(5, one_source=False)
    rows = [row for batch in steps(made, 5) for _, row in batch]
    assert set(Counter(rows).values()) == {4}
    assert [sorted(rows[i : i + 5]) for i in range(0, 20, 5)] == [list(range(5))] * 4


def test_a_source_of_one_row_repeats_among_others():
    rows = rows_of(steps(stream(1, 30, one_source=False), 40))
    assert rows.count((0, 0)) > 1


@BOTH
@pytest.mark.parametrize("left", [0, 1, 5, 6, 7, 23])
def test_a_stream_that_is_resumed_goes_on_as_if_it_had_not_stopped(one_source, left):
    whole, stopped = (stream(11, 26, one_source=one_source) for _ in range(2))
    steps(whole, left)
    steps(stopped, left)
    if left % 2:
        assert whole.draw() == stopped.draw()
    resumed = stream(11, 26, one_source=one_source)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert resumed.passes == whole.passes
    for _ in range(30):
        assert resumed.draw() == whole.draw()
        assert resumed.next() == whole.next()
    assert resumed.state() == whole.state()
    assert resumed.passes == whole.passes


def test_restoring_sets_a_stream_back_too():
    made = stream(11, 26)
    start = made.state()
    first = steps(made, 20)
    made.restore(start)
    assert steps(made, 20) == first


def test_a_stream_may_go_on_with_another_batch_size():
    made, other = stream(24), stream(24, batch=8)
    rows = rows_of(steps(made, 2))
    other.restore(made.state())
    assert sorted(rows + rows_of(steps(other, 2))) == [(0, row) for row in range(24)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (stream(11, 26, seed=8), "made with seed = 7, this run has 8; resume with the data"),
        (stream(11, 26, one_source=False), "made with one_source = True, this run has False"),
        (stream(11, 27), "made with sources = .*26.*, this run has .*27"),
        (stream(26, 11), "made with sources"),
    ],
)
def test_a_state_of_another_stream_is_refused(other, message):
    with pytest.raises(InputError, match=message):
        other.restore(stream(11, 26).state())


def test_a_state_that_is_none_is_refused():
    with pytest.raises(InputError, match="made with seed = None"):
        stream(11).restore({})


@BOTH
def test_length_and_seed_of_one_stream_do_not_change_the_other(one_source):
    alone = steps(stream(40, 9, seed=1, one_source=one_source), 30)
    for other in (stream(4, seed=2), stream(400, seed=2), stream(4, seed=3, one_source=False)):
        beside, found = stream(40, 9, seed=1, one_source=one_source), []
        for _ in range(30):
            other.next()
            found.append(beside.next())
        assert found == alone


def test_the_order_of_a_source_does_not_change_with_the_sources_behind_it():
    def order(*sizes):
        rows = rows_of(steps(stream(*sizes, one_source=False), 100))
        return [row for source, row in rows if source == 0][:20]

    assert order(20) == order(20, 30) == order(20, 5, 5)


def test_other_seeds_give_other_orders():
    assert steps(stream(40, seed=1), 10) != steps(stream(40, seed=2), 10)


def test_the_order_is_the_same_in_every_process_and_for_every_hash_seed():
    code = (
        "from tests.train.test_sampler import stream, steps;"
        "print(steps(stream(11, 26), 12), steps(stream(3, one_source=False), 3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1"},
    )
    here = f"{steps(stream(11, 26), 12)} {steps(stream(3, one_source=False), 3)}\n"
    assert done.stdout == here


def test_the_order_is_the_one_of_older_versions():
    assert stream(9, 5).next() == [(1, 0), (1, 2), (1, 1), (1, 4)]
    assert stream(9, 5, one_source=False).next() == [(1, 0), (0, 4), (0, 3), (1, 2)]


@BOTH
def test_sources_come_as_often_as_they_weigh(one_source):
    sources = [Made(50, 1.0), Made(500, 2.0), Made(20, 5.0)]
    made = Stream(sources, batch=4, seed=3, one_source=one_source)
    batches = steps(made, 4000)
    drawn = [b[0][0] for b in batches] if one_source else [s for b in batches for s, _ in b]
    for source, share in enumerate([1 / 8, 2 / 8, 5 / 8]):
        deviation = (share * (1 - share) / len(drawn)) ** 0.5
        assert abs(drawn.count(source) / len(drawn) - share) < 4 * deviation


def test_draws_go_on_without_an_end_among_mixed_sources():
    made = stream(2, 3, one_source=False)
    assert {made.draw() for _ in range(100)} == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}
    assert made.passes == 20


def test_a_source_smaller_than_a_batch_of_one_source_is_refused():
    with pytest.raises(InputError) as caught:
        stream(9, 3)
    assert str(caught.value) == (
        "source 1 has 3 rows, a batch takes 4 of one source and would hold some twice; lower the "
        "batch size, set same_source_batches = false, or leave it out"
    )
    stream(4)


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "there are no sources"),
        ([Made(0)], {}, "made: weight = 0.0; expected a number above 0"),
        ([Made(0, 1.0)], {"one_source": False}, "made has no rows"),
        ([Made(9, float("nan"))], {}, "weight = nan"),
        ([Made(9, -1.0)], {}, "weight = -1.0"),
        ([Made(9)], {"batch": 0}, "batch=0; expected a whole number >= 1"),
        ([Made(9)], {"seed": -1}, "seed=-1; expected a whole number >= 0"),
    ],
)
def test_what_no_stream_can_be_made_of_is_refused(sources, options, message):
    with pytest.raises(InputError, match=message):
        Stream(sources, **({"batch": 4, "seed": 0, "one_source": True} | options))
