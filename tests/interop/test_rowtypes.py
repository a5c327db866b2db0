"""The values that handlers receive for each type of PostgreSQL, in our client and the official ones."""

import json

import pytest

from supawire import LocalServer, connect_async

from .conftest import Official
from .rowtypes.__main__ import MEASURED
from .rowtypes.cases import CASES
from .rowtypes.measuring import Got, ours
from .rowtypes.measuring import official as measure


def kept(side: str) -> dict[str, Got]:
    """Return the committed measurement."""
    found: dict[str, dict[str, Got]] = json.loads(MEASURED.read_text(encoding="utf-8"))
    assert list(found) == [case.name for case in CASES]
    return {name: row[side] for name, row in found.items()}


async def test_our_rows_are_what_the_page_shows(server: LocalServer):
    """Each type is decoded as the page of types shows, without loss."""
    async with connect_async(server.url, server.token()) as client:
        got = await ours(server, client)
    assert got == kept("supawire")
    assert [name for name, value in got.items() if not value["exact"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("official", ["python 1.0.0", "javascript 2.0.0"], indirect=True)
async def test_official_clients_deliver_what_the_page_shows(server: LocalServer, official: Official):
    """A run of the official clients gives the committed results."""
    assert await measure(server, official.process, official.vsn) == kept(official.language)
