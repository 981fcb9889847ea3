"""Errors of a cluster, in one line each."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError

from gritlm.errors import InputError, MissingExtraError
from gritlm.scale import cluster, ray_library

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.9.0
    Python: 3.11.7
This process on node 10.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.12.1
"""


def test_another_version_of_ray_is_named_with_the_command():
    message = cluster._reason(RuntimeError(MISMATCH), "10.0.0.1:6379")
    assert message == (
        "the cluster at 10.0.0.1:6379 runs Ray 2.9.0 on Python 3.11.7, this process Ray 2.60.0 on "
        "Python 3.12.1; install the same versions, e.g. pip install 'ray[data,serve,train]==2.9.0'"
    )


def test_a_cluster_that_is_not_there_is_named():
    message = cluster._reason(ConnectionError("Failed to connect\nadvice"), "auto")
    assert message.startswith("no Ray cluster at auto: Failed to connect; start one with")
    assert "\n" not in message


def test_the_error_of_a_worker_is_raised_as_it_is():
    raised = InputError("passage 'd17' is empty; leave it out")
    error = RayTaskError("encode", "Traceback ...", raised)
    found = cluster.explain(error, "bulk embedding")
    assert type(found) is InputError
    assert str(found) == str(raised)


@pytest.mark.parametrize("error", [WorkerCrashedError(), ActorDiedError(), ValueError("a\nb")])
def test_any_other_error_is_one_line(error):
    found = cluster.explain(error, "bulk embedding")
    assert type(found) is cluster.ClusterError
    assert str(found).startswith("bulk embedding failed: ")
    assert "\n" not in str(found)


def test_without_ray_the_extra_is_named(monkeypatch):
    from gritlm import errors

    plain = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "ray" else plain(name))
    with pytest.raises(MissingExtraError, match=r"needs ray, which is not installed; .*\[scale\]"):
        ray_library.require()
