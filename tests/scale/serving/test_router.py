"""The choice of a replica: by its store, by the conversation, by its load."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from gritlm.scale.serving.autoscaling import RUNNING, WAITING, WaitingTokens, wanted
from gritlm.scale.serving.replica_metrics import merged
from gritlm.scale.serving.routes import Route


class Identity(NamedTuple):
    unique_id: str


def replica(name: str, *stores: str) -> Any:
    identity = Identity(name)
    return SimpleNamespace(replica_id=identity, routing_stats={"writes": list(stores)})


def pending(route: Route | None) -> Any:
    context = SimpleNamespace(should_backoff=False)
    kwargs = {} if route is None else {"route": route}
    return SimpleNamespace(kwargs=kwargs, routing_context=context)


class Loads(dict[Any, int]):
    """Requests of each replica, as Ray Serve's cache counts them."""


@pytest.fixture
def router() -> Any:
    pytest.importorskip("ray", reason="Ray is not installed")
    from gritlm.scale.serving.router import KVRouter

    made = KVRouter.__new__(KVRouter)
    made._replica_queue_len_cache = Loads()
    made.initialize_state(spill=3)
    return made


def ranks(router: Any, replicas: list[Any], route: Route | None) -> list[list[str]]:
    chosen = asyncio.run(router.choose_replicas(replicas, pending(route)))
    return [[each.replica_id.unique_id for each in rank] for rank in chosen]


REPLICAS = [replica("a"), replica("b", "law"), replica("c")]


def test_a_write_goes_to_the_writer_alone_and_a_read_to_it_first(router):
    assert ranks(router, REPLICAS, Route(store="law", writes=True)) == [["b"]]
    assert ranks(router, REPLICAS, Route(store="law")) == [["b"], ["a", "c"]]


def test_conversations_have_a_replica_each_and_spread(router):
    first = {}
    for number in range(60):
        route = Route(conversation=f"c{number}")
        first[number] = ranks(router, REPLICAS, route)[0][0]
        assert ranks(router, REPLICAS, route)[0][0] == first[number]
    counts = [list(first.values()).count(name) for name in "abc"]
    assert min(counts) >= 8
    # another set of replicas moves the conversations of the one that is gone, and no other
    for number, name in first.items():
        if name != "c":
            assert ranks(router, REPLICAS[:2], Route(conversation=f"c{number}"))[0][0] == name


def test_a_conversation_stays_where_it_was_answered(router):
    route = Route(conversation="x")
    home = ranks(router, REPLICAS, route)[0][0]
    other = next(each for each in REPLICAS if each.replica_id.unique_id != home)
    router.on_request_routed(pending(route), other.replica_id, None)
    assert ranks(router, REPLICAS, route)[0] == [other.replica_id.unique_id]


def test_an_overloaded_replica_is_left_for_the_least_loaded(router):
    route = Route(store="law")
    router._replica_queue_len_cache[REPLICAS[1].replica_id] = 2
    assert ranks(router, REPLICAS, route)[0] == ["b"]
    router._replica_queue_len_cache[REPLICAS[1].replica_id] = 3
    assert ranks(router, REPLICAS, route) == [["a", "c"], ["b"]]
    assert ranks(router, REPLICAS, Route(store="law", writes=True)) == [["b"]]


def test_other_requests_go_to_any_replica(router):
    assert ranks(router, REPLICAS, Route()) == [["a", "b", "c"]]
    assert ranks(router, REPLICAS, None) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("waiting", "running", "current", "expected"),
    [
        ([0, 0], [0, 0], 2, 0),
        ([0, 0], [4, 1], 2, 2),
        ([0, 0], [4, 0], 2, 1),
        ([900, 0], [4, 4], 2, 2),
        ([2100, 0], [4, 4], 2, 3),
        ([9000, 0], [4, 4], 2, 9),
    ],
)
def test_replicas_follow_waiting_tokens(waiting, running, current, expected):
    by_name = [dict(enumerate(values)) for values in (waiting, running)]
    assert wanted(*by_name, tokens=1000, sequences=4, current=current) == expected
    context = SimpleNamespace(
        aggregated_metrics={WAITING: by_name[0], RUNNING: by_name[1]}, target_num_replicas=current
    )
    assert WaitingTokens(1000, 4)(context) == (expected, {})


def test_metrics_of_replicas_are_one_exposition():
    text = (
        '# HELP a_total A.\n# TYPE a_total counter\na_total{{x="1"}} {0}\n# TYPE b gauge\nb {0}\n'
    )
    found = merged({"r1": text.format(1.0).encode(), "r2": text.format(2.0).encode()}).decode()
    assert found.splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{replica="r1",x="1"} 1.0',
        'a_total{replica="r2",x="1"} 2.0',
        "# TYPE b gauge",
        'b{replica="r1"} 1.0',
        'b{replica="r2"} 2.0',
    ]
