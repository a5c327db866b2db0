"""What becomes of values in a payload: the table of the page on broadcasts, line by line."""

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
def test_the_table_says_what_is_sent(expression: str, sent: str):
    """Also deep inside, and as members of an object."""
    if expression == NUMPY:
        pytest.importorskip("numpy")
        assert sent == WITHOUT_NUMPY
    value = value_of(expression)
    assert check_json(value).decode() == sent
    assert check_json({"a": [value]}).decode() == f'{{"a":[{sent}]}}'


def test_the_table_is_complete():
    """Every kind that the documentation of `check_json` names has a line."""
    assert len(ROWS) == 12


def test_the_kinds_that_share_a_line_are_alike():
    """attrs classes and structs as dataclasses; dates and times as datetimes."""
    assert {check_json(kind(1, 2)) for kind in (Point, Attrs, Struct)} == {b'{"x":1,"y":2}'}
    assert check_json([date(2026, 1, 2), time(3, 4)]) == b'["2026-01-02","03:04:00"]'


@pytest.mark.skipif(find_spec("numpy") is None, reason="not run: numpy is not installed")
def test_numbers_of_numpy_have_a_json_value_or_are_refused():
    """Scalars of every kind; what Python has no like of says so, with its place."""
    import numpy as np

    values = [np.bool_(True), np.uint8(1), np.float32(0.5), np.float64(1.5), np.str_("a")]
    assert check_json([*values, None]) == b'[true,1,0.5,1.5,"a",null]'
    for value, said in (
        (np.float32("nan"), r"payload\[0\] cannot be encoded as JSON: nan"),
        (np.array([1.0, float("inf")]), r"payload\[0\]\[1\] cannot be encoded as JSON: inf"),
        (np.datetime64("2026-01-01", "ns"), r"payload\[0\] .*datetime64"),
        (np.complex64(1), r"payload\[0\] .*complex64"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            check_json([value])
