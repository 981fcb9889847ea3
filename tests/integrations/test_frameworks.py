"""Adapters of a framework that is not installed, and models that adapters share."""

from __future__ import annotations

import pytest

from gritlm.errors import MissingExtraError
from gritlm.integrations import frameworks
from gritlm.integrations.local_models import model_of


def test_a_missing_framework_is_named_with_its_extra():
    homes = {"Adapter": "no_such_module"}
    get, listed = frameworks.names(__name__, homes, library="no_such_library", extra="langchain")
    with pytest.raises(MissingExtraError, match=r"needs no_such_library, .*\[langchain\]"):
        get("Adapter")
    assert "Adapter" in listed()
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        get("Other")


def test_a_named_model_is_loaded_once(grit, tiny_model):
    folder = tiny_model()
    assert model_of(folder) is model_of(str(folder))
    assert model_of(grit) is grit
