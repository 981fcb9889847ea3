"""Wording and size keep the rules of CONTRIBUTING.md; `python tests/language.py` lists them."""

from __future__ import annotations

import pytest

from tests.language import measured

RULES = measured()


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rules_of_wording_and_size(rule):
    found, bound = RULES[rule]
    assert len(found) <= bound, "\n".join(found)
