from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.rag.index import filters


def test_sql_stays_as_it_is():
    assert filters.condition("number > 3") == "number > 3"


def test_quotes_in_names_and_values_stay_within_theirs():
    sql = filters.condition({"it's": "x' OR 'a'='a"})
    assert sql == """(json_extract(metadata, '$."it''s"') = '"x'' OR ''a''=''a"')"""


def test_several_names_must_all_fit_and_one_value_of_a_list():
    sql = filters.condition({"a": True, "document_id": ["x", "y"]})
    assert sql == """(json_extract(metadata, '$."a"') = 'true') AND document_id IN ('x', 'y')"""


@pytest.mark.parametrize(
    "where",
    [
        "",
        "  ",
        {},
        [],
        3,
        {"a": []},
        {"": 1},
        {"a": object()},
        {"a": float("nan")},
        {"a": {"b": 1}},
    ],
)
def test_a_filter_that_asks_for_nothing_is_an_error(where):
    with pytest.raises(InputError):
        filters.condition(where)
