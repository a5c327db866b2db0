"""The encoding of payloads: each row of the table on the page on broadcasts."""

import re
from datetime import date, time
from importlib.util import find_spec

import attrs
import msgspec
import pytest

from docs.tables.payloads import NUMPY, WITHOUT_NUMPY, Point, value_of
from supawire.errors import InvalidArgumentError
from supawire.options import check_json
from tests.conftest import ROOT


@attrs.define
class Attrs:
    x: int
    y: int


class Struct(msgspec.Struct):
    x: int
    y: int


TABLE = (ROOT / "docs" / "broadcast.md").read_text(encoding="utf-8").split("<!-- table: payloads -->")[1]
ROWS: list[tuple[str, str]] = re.findall(r"^\|[^|]*\| `([^|]*)` \| `([^|]*)` \|$", TABLE.split("<!--")[0], re.MULTILINE)


@pytest.mark.parametrize(("expression", "sent"), ROWS)
def test_values_are_encoded_as_the_page_shows(expression: str, sent: str):
    """Values are also encoded when nested deeply and as members of an object."""
    if expression == NUMPY:
        pytest.importorskip("numpy")
        assert sent == WITHOUT_NUMPY
    value = value_of(expression)
    assert check_json(value).decode() == sent
    assert check_json({"a": [value]}).decode() == f'{{"a":[{sent}]}}'


def test_the_table_of_the_page_is_complete():
    """Every kind that the documentation of `check_json` names has a row."""
    assert len(ROWS) == 12


def test_kinds_in_one_row_are_encoded_alike():
    """attrs classes and structs are encoded like dataclasses, and dates and times like datetimes."""
    assert {check_json(kind(1, 2)) for kind in (Point, Attrs, Struct)} == {b'{"x":1,"y":2}'}
    assert check_json([date(2026, 1, 2), time(3, 4)]) == b'["2026-01-02","03:04:00"]'


@pytest.mark.skipif(find_spec("numpy") is None, reason="not run: numpy is not installed")
def test_numbers_of_numpy_are_encoded_or_refused():
    """Scalars of every kind are encoded; the error for unsupported ones contains their path."""
    import numpy as np

    values = [np.bool_(True), np.uint8(1), np.float32(0.5), np.float64(1.5), np.str_("a")]
    assert check_json([*values, None]) == b'[true,1,0.5,1.5,"a",null]'
    for value, expected in (
        (np.float32("nan"), r"payload\[0\] cannot be encoded as JSON: nan"),
        (np.array([1.0, float("inf")]), r"payload\[0\]\[1\] cannot be encoded as JSON: inf"),
        (np.datetime64("2026-01-01", "ns"), r"payload\[0\] .*datetime64"),
        (np.complex64(1), r"payload\[0\] .*complex64"),
    ):
        with pytest.raises(InvalidArgumentError, match=expected):
            check_json([value])
