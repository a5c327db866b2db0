"""sdk-compliance.yaml, which says where supawire has the capabilities of the public registry of Supabase SDKs."""

import re
from functools import reduce
from typing import Any

import pytest

import supawire
from supawire import transport
from tests.conftest import ROOT

yaml = pytest.importorskip("yaml")
REGISTRY = {
    "client": (
        "connect disconnect channel get_channels remove_channel remove_all_channels connection_state "
        "listen_heartbeats set_auth_token"
    ),
    "channel": "subscribe unsubscribe broadcast broadcast_http",
    "subscriptions": (
        "broadcast postgres_changes postgres_changes_filter postgres_changes_multiple_filters subscribe_presence "
        "private_channel broadcast_self broadcast_ack broadcast_replay"
    ),
    "presence": "track untrack presence_state presence_key",
    "configuration": (
        "custom_websocket_transport reconnect_backoff heartbeat_interval access_token_callback deferred_disconnect "
        "custom_logger binary_protocol"
    ),
}
"""The registry's capabilities of Realtime: for each group their names."""
CAPABILITIES = [f"realtime.{group}.{name}" for group, names in REGISTRY.items() for name in names.split()]
FEATURES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "sdk-compliance.yaml").read_text("utf-8"))["features"]
SYMBOLS = sorted({symbol for feature in FEATURES.values() for symbol in feature.get("symbols", ())})


def test_every_capability_of_the_registry_has_a_status():
    """The file has each of the 33 capabilities once and no other, each with a status and symbols."""
    assert len(CAPABILITIES) == 33
    assert sorted(FEATURES) == sorted(CAPABILITIES)
    for name, feature in FEATURES.items():
        assert feature["status"] in ("implemented", "partially_implemented", "not_implemented", "not_applicable"), name
        assert feature["status"] != "partially_implemented" or feature["note"], name
        assert bool(feature.get("symbols")) == (feature["status"] in ("implemented", "partially_implemented")), name


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_symbol_exists_and_is_documented(symbol: str):
    """A symbol is a public name of the package or its member, has a docstring or is a field, and is in a page."""
    *owners, name = symbol.split(".")
    owner = transport if owners == ["transport"] else reduce(getattr, owners, supawire)
    value = getattr(owner, name)
    assert not name.startswith("_")
    is_field = isinstance(owner, type) and name in getattr(owner, "__dataclass_fields__", {})
    assert is_field or value.__doc__
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.name != "reference.md"]
    assert any(re.search(rf"[`.]{name}\b|\b{name}[=(]", path.read_text("utf-8")) for path in pages)
