"""What measures is asked for by name when it is not there."""

from __future__ import annotations

import pytest

from gritlm.errors import MissingExtraError
from gritlm.evaluation import harnesses


def test_a_half_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setattr(harnesses, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lm-eval.*\[eval\]"):
        harnesses.require("generation")
    with pytest.raises(MissingExtraError, match="mteb"):
        harnesses.require("embedding")
    harnesses.require("rag")


def test_what_is_installed_is_let_through():
    harnesses.require("embedding")
    harnesses.require("generation")
