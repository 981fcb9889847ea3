"""The lock of an output, which refuses a second job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from gritlm.errors import InputError
from gritlm.scale.bulk.staging import LOCK, Staging
from gritlm.scale.storage import Location, StorageError

LEASE_SECONDS = 30.0  # of a job that no longer renews its lock on an object store
_RENEWALS = 6  # in this time


@contextmanager
def only_job(staging: Staging) -> Iterator[None]:
    """Refuse a second job on the same output while the block runs.

    A local lock is one of the system and ends with the process. An object store has no locks: each
    job keeps an object there, whose time it renews.

    Args:
        staging: the folders of the job.

    Raises:
        InputError: while another job runs.
    """
    if staging.output.is_local:
        with _locked(staging):
            yield
        return
    mine = staging.folder.child(f"{LOCK}-{uuid4().hex}")
    mine.write(b"gritlm")
    stopped = threading.Event()
    renewal = threading.Thread(target=_renew, args=(mine, stopped), daemon=True)
    try:
        _require_alone(staging, mine)
        renewal.start()
        yield
    finally:
        stopped.set()
        if renewal.is_alive():
            renewal.join()
        if mine.exists():
            mine.delete()


@contextmanager
def _locked(staging: Staging) -> Iterator[None]:
    from filelock import FileLock, Timeout

    staging.folder.make_folder()
    lock = FileLock(f"{staging.folder.path}/{LOCK}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _busy(staging, "wait for its end") from None
    try:
        yield
    finally:
        lock.release()


def _require_alone(staging: Staging, mine: Location) -> None:
    """Refuse another lock that is as new as this one, by the clock of the object store."""
    locks = [each for each in staging.folder.files() if each.base_name.startswith(LOCK)]
    now = max(each.mtime.timestamp() for each in locks if each.base_name == mine.name)
    others = [each for each in locks if each.base_name != mine.name]
    if any(now - each.mtime.timestamp() < LEASE_SECONDS for each in others):
        raise _busy(staging, f"wait for its end, or {LEASE_SECONDS:.0f} seconds if it was killed")
    for each in others:
        staging.folder.child(each.base_name).delete()


def _renew(mine: Location, stopped: threading.Event) -> None:
    while not stopped.wait(LEASE_SECONDS / _RENEWALS):
        try:
            mine.write(b"gritlm")
        except StorageError:  # the job fails by itself if the storage stays away
            continue


def _busy(staging: Staging, advice: str) -> InputError:
    return InputError(f"another job writes {staging.output.url}; {advice}, or name another output")
