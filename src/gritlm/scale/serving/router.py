"""Ray Serve's request router: replicas that hold the KV state of a request, else the least loaded.

Ray copies this module by value into every process that routes requests.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from gritlm.scale.serving.routes import Route

WRITES = "writes"  # in the routing statistics of a replica: the stores that it writes to
_REMEMBERED = 16_384  # conversations whose replica is remembered


class KVRouter(RequestRouter):
    """Router by KV state.

    A write goes to the replica that writes to its store. A read of a store goes there too, since
    that replica has the blocks of new documents in memory. A conversation goes to the replica that
    answered its last turn, and a new one to a replica by its hash. While that replica has ``spill``
    more requests than the least loaded one, the request goes to the latter.
    """

    def initialize_state(self, **kwargs: int) -> None:
        """Take the settings of the application.

        Args:
            kwargs: ``spill``, the requests by which a replica may exceed the least loaded one.
        """
        self._spill = kwargs["spill"]
        self._answered: OrderedDict[str, ReplicaID] = OrderedDict()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replicas for a request, the best rank first."""
        if not candidate_replicas or pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        route = _route_of(pending_request)
        home = self._home(route, candidate_replicas)
        if home is None:
            return [candidate_replicas]
        if route.writes:
            return [[home]]
        others = [replica for replica in candidate_replicas if replica is not home]
        if self._is_overloaded(home, others):
            return [others, [home]]
        return [[home], others]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Remember the replica of a conversation, whose next turn finds its KV state there."""
        del result
        conversation = _route_of(pending_request).conversation
        if conversation is None:
            return
        self._answered[conversation] = replica_id
        self._answered.move_to_end(conversation)
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)

    def _home(self, route: Route, replicas: list[RunningReplica]) -> RunningReplica | None:
        """Return the replica that holds the state of a request; None where all are equal."""
        if route.store is not None:
            for replica in replicas:
                if route.store in (replica.routing_stats or {}).get(WRITES, ()):
                    return replica
        key = route.store or route.conversation
        if key is None:
            return None
        answered = self._answered.get(key)
        by_id = {replica.replica_id: replica for replica in replicas}
        if answered in by_id:
            return by_id[answered]
        return max(replicas, key=lambda replica: _weight(key, replica))

    def _is_overloaded(self, home: RunningReplica, others: list[RunningReplica]) -> bool:
        """Return whether a replica has ``spill`` more requests than the least loaded one."""
        loads = [self._load(replica) for replica in others]
        return bool(loads) and self._load(home) >= min(loads) + self._spill

    def _load(self, replica: RunningReplica) -> int:
        """Return the running and waiting requests of a replica, as far as this process knows."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _route_of(pending: PendingRequest) -> Route:
    route = pending.kwargs.get("route")
    return route if isinstance(route, Route) else Route()


def _weight(key: str, replica: RunningReplica) -> bytes:
    """Return the weight of a replica for a key (rendezvous hashing)."""
    text = f"{key}\0{replica.replica_id.unique_id}".encode()
    return hashlib.blake2b(text, digest_size=8).digest()
