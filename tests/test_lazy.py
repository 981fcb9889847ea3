"""The garbage collector while libraries are imported and models loaded."""

from __future__ import annotations

import gc
from importlib import import_module

import pytest

from gritlm.lazy import collection_paused


def test_the_collector_is_paused_and_runs_again_also_after_an_error():
    assert gc.isenabled()
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), collection_paused():
        import_module("gritlm.missing")
    assert gc.isenabled()


def test_a_collector_that_the_user_has_switched_off_stays_off():
    gc.disable()
    try:
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
