"""The snapshot file of a mirror: exact values, atomic saves, one user."""

import sqlite3
import stat
from base64 import urlsafe_b64encode
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.errors import CacheError
from supawire.mirror_cache import MirrorCache, identity_of, pack, unpack
from supawire.options import Secret

KEY = Secret("sb_publishable_key")

VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, -(2**63) - 1, 10**40, 0.5, float("inf"), "text", "", b"\x00\xff", "\ud7ff\0",
    Decimal("1.10"), Decimal("-0"), Decimal("1E+400"), Decimal("Infinity"),
    datetime(2026, 1, 5, 10, 11, 12, 123456), datetime(2026, 1, 5, 10, 11, 12, tzinfo=UTC),  # noqa: DTZ001
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))), date(9999, 12, 31), time(23, 59, 59, 1),
    time(1, tzinfo=timezone(timedelta(hours=-3))), timedelta(days=-3, microseconds=1), UUID(int=7),
    [1, [Decimal(2), {"a": [UUID(int=1)]}]], {"a": {"b": b"x"}}, (1, "a"), [],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_read_as_they_were_written(value: Any):
    """Each value that a row may have comes back equal, of the same type and with the same digits."""
    found = unpack(pack(value))
    assert (found, type(found), repr(found)) == (value, type(value), repr(value))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
        | st.decimals(allow_nan=False) | st.datetimes() | st.dates() | st.times() | st.timedeltas() | st.uuids(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    )
)  # fmt: skip
def test_any_value_survives(value: Any):
    """Any nesting of these values comes back equal."""
    assert unpack(pack(value)) == value


def test_other_values_are_refused():
    """A value of another type raises an error instead of being changed."""
    with pytest.raises(CacheError, match="IPv4Address"):
        pack({"id": 1, "address": ip_address("127.0.0.1")})


def test_a_save_is_complete_or_not_there(tmp_path: Path):
    """Later saves change single rows; a save that fails leaves the earlier copy."""
    cache = MirrorCache(tmp_path / "a.db", {"table": "users"})
    assert cache.load("me") is None
    assert cache.save("me", {1: {"id": 1}, 2: {"id": 2}, (3, "x"): {"id": 3}}, whole=True)
    assert cache.save("me", {1: {"id": 1, "v": 2}, 2: None}, whole=False)
    with pytest.raises(CacheError):
        cache.save("me", {1: None, 9: {"id": ip_address("::1")}}, whole=False)
    found = cache.load("me")
    assert found is not None
    assert sorted(found[0], key=lambda row: row["id"]) == [{"id": 1, "v": 2}, {"id": 3}]
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["a.db"]


def test_rows_of_somebody_else_are_not_read(tmp_path: Path):
    """Another user or another selection finds nothing, and its first save removes all rows of the former."""
    path = tmp_path / "a.db"
    mine, other = MirrorCache(path, {"table": "users"}), MirrorCache(path, {"table": "orders"})
    mine.save("me", {1: {"id": 1}}, whole=True)
    assert mine.load("you") is None and other.load("me") is None
    assert not mine.save("you", {2: {"id": 2}}, whole=False), "all rows must be saved first"
    assert mine.save("you", {2: {"id": 2}}, whole=True)
    assert mine.load("me") is None and mine.load("you") is not None


def test_two_processes_with_one_file_do_not_mix_their_rows(tmp_path: Path):
    """A file that something else has written meanwhile is saved as a whole again."""
    first, second = (MirrorCache(tmp_path / "a.db", {}) for _ in range(2))
    first.save("me", {1: {"id": 1}}, whole=True)
    second.save("me", {2: {"id": 2}}, whole=True)
    assert not first.save("me", {3: {"id": 3}}, whole=False)


def test_a_file_of_another_version_is_written_anew(tmp_path: Path):
    """The rows of another version of the format are not read, and replaced by the next save."""
    path = tmp_path / "a.db"
    cache = MirrorCache(path, {})
    cache.save("me", {1: {"id": 1}}, whole=True)
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 99")
    connection.close()
    assert cache.load("me") is None
    assert cache.save("me", {1: {"id": 1}}, whole=True) and cache.load("me") is not None


@pytest.mark.parametrize(
    "change",
    [
        "update meta set value = '1e300' where name = 'saved_at'",
        "update meta set value = 'nan' where name = 'saved_at'",
        "update rows set row = x'c70107c0'",  # an interval of null
        "update rows set row = zeroblob(0)",
    ],
)
def test_damaged_values_are_reported(tmp_path: Path, change: str):
    """A file whose values are damaged raises `CacheError`, and is renamed."""
    path = tmp_path / "a.db"
    cache = MirrorCache(path, {})
    cache.save("me", {1: {"id": 1}}, whole=True)
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(CacheError, match="damaged"):
        cache.load("me")
    assert not path.exists() and cache.load("me") is None


def test_rows_that_cannot_be_encoded_are_refused(tmp_path: Path):
    """A text that is not Unicode and a value that is nested too deep raise `CacheError`."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in ("\ud800", deep):
        with pytest.raises(CacheError, match="cannot be saved"):
            MirrorCache(tmp_path / "a.db", {}).save("me", {1: {"id": value}}, whole=True)


def token(**claims: Any) -> Secret:
    """Return a JWT with these claims."""
    parts = [urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=").decode() for part in ({"alg": "HS256"}, claims)]
    return Secret(f"{parts[0]}.{parts[1]}.signature")


def test_the_identity_is_that_of_the_user():
    """Tokens of one user have the same identity; another user, role or claim has another. It has no part of a token."""
    alice = identity_of(token(sub="alice", role="authenticated", exp=1, iat=1, session_id="a"), KEY)
    assert alice == identity_of(token(sub="alice", role="authenticated", exp=2, iat=2, session_id="b"), KEY)
    others = [
        identity_of(token(sub="bob", role="authenticated"), KEY),
        identity_of(token(sub="alice", role="service_role"), KEY),
        identity_of(token(sub="alice", role="authenticated", app_metadata={"team": 1}), KEY),
        identity_of(token(sub="alice", role="authenticated", aal="aal2"), KEY),
        identity_of(Secret("opaque-1"), KEY),
        identity_of(Secret("opaque-2"), KEY),
        identity_of(None, KEY),
        identity_of(None, Secret("sb_secret_key")),
    ]
    assert len({alice, *others}) == 9
    assert identity_of(None, Secret("sb_publishable_other")) == identity_of(None, KEY)
    assert "alice" not in alice and "opaque" not in "".join(others)
