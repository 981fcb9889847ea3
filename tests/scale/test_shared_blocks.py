"""Shared tiers in folders and in buckets."""

from __future__ import annotations

import logging
import pickle
import socket
import stat
import time

import pytest
import torch

pytest.importorskip("moto", reason="moto is not installed")

from gritlm.errors import InputError
from gritlm.scale import shared_blocks
from gritlm.scale.storage import StorageError, shown
from tests.rag.store import blocks
from tests.scale import collection, object_store
from tests.scale.object_store import KEY, SECRET, address, names

pytestmark = collection.WARNINGS


@pytest.fixture(scope="module")
def server():
    with object_store.started() as found:
        yield found


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path, server):
    """Address of empty storage."""
    if request.param == "folder":
        return str(tmp_path / "blocks")
    return address(server, "data/blocks")


def test_blocks_go_through_the_storage_and_are_deleted_there(url, tmp_path):
    shared = pickle.loads(pickle.dumps(shared_blocks(url, always=True)))  # as Ray sends it
    made = blocks.block(1, tokens=20)
    with blocks.opened(tmp_path / "one") as one, blocks.opened(tmp_path / "two") as two:
        one.attach(shared)
        two.attach(shared_blocks(url, always=True))
        (key,) = blocks.put(one, made)
        found = two.fetch(key)
        assert found.tier == "shared"
        assert torch.equal(found.block.data, made.data)
        one.delete([key, b"k" * 32])
        two.delete([key])
        assert one.fetch(key) is None
        assert two.fetch(key) is None


def test_a_truncated_object_is_computed_again(server, tmp_path):
    made = blocks.block(1)
    url = address(server, "data/broken")
    with blocks.opened(tmp_path / "one") as one, blocks.opened(tmp_path / "two") as two:
        one.attach(shared_blocks(url, always=True))
        (key,) = blocks.put(one, made)
        (name,) = [each for each in names(server, "broken/") if each.endswith(".kv")]
        server[0].put_object(Bucket="data", Key=f"broken/{name}", Body=b"gritlmKV and no more")
        two.attach(shared_blocks(url, always=True))
        assert two.fetch(key) is None
        blocks.put(two, made)
        two.evict(2**40)
        assert two.fetch(key).tier == "shared"


def test_a_folder_of_blocks_is_private(tmp_path):
    with blocks.opened(tmp_path / "one") as one:
        one.attach(shared_blocks(tmp_path / "blocks", always=True))
        blocks.put(one, blocks.block(1))
    assert stat.S_IMODE((tmp_path / "blocks").stat().st_mode) == 0o700


def test_credentials_are_not_in_messages_and_not_in_the_store(server, tmp_path, caplog):
    url = address(server, "data/secret")
    shared = shared_blocks(url)
    with blocks.opened(tmp_path / "one") as one:
        one.attach(shared)
        blocks.put(one, blocks.block(1))
    texts = [each.read_text(errors="ignore") for each in (tmp_path / "one/shared").iterdir()]
    for text in (repr(shared), shared.objects.url, caplog.text, *texts):
        assert SECRET not in text
        assert KEY not in text
    assert any("s3://data/secret?endpoint_override" in text for text in texts)


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_storage_that_is_away_costs_some_seconds_and_one_warning(tmp_path, caplog, answers):
    with socket.socket() as listening, blocks.opened(tmp_path / "one") as one:
        listening.bind(("127.0.0.1", 0))
        if answers:
            listening.listen(5)
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        one.attach(shared_blocks(address((None, host), "data/blocks")))
        started = time.monotonic()
        assert [one.fetch(bytes([number]) * 32) for number in range(5)] == [None] * 5
        assert time.monotonic() - started < 20
        assert blocks.put(one, blocks.block(1))
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "s3://data/blocks" in warnings[0]
    assert SECRET not in warnings[0]


def test_a_bucket_that_cannot_be_written_is_refused_before_the_work(server):
    with pytest.raises(StorageError, match=r"s3://nobucket/blocks.*cannot be written") as caught:
        shared_blocks(address(server, "nobucket/blocks"), writable=True)
    assert SECRET not in str(caught.value)


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"ftp://host/blocks: expected a folder or an address"):
        shared_blocks("ftp://user:password@host/blocks")


@pytest.mark.parametrize(
    ("address", "shows"),
    [
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("s3://key:sec/ret@bucket/a", "s3://bucket/a"),
        ("s3://key:sec/ret/@bucket/a?region=x", "s3://bucket/a?region=x"),
        ("s3://token@bucket/a", "s3://bucket/a"),
        ("s3://bucket/name@host/a", "s3://bucket/name@host/a"),
    ],
)
def test_credentials_with_slashes_are_not_shown_either(address, shows):
    assert shown(address) == shows
    assert shown(f"cannot parse '{address}' here") == f"cannot parse '{shows}' here"
