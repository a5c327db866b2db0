"""The payload of a join and the binding ids in its reply. See docs/protocol.md, Join payload and Join reply."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw, Struct

from supawire.core.codec import items, members, read
from supawire.core.token import on_wire
from supawire.errors import JoinError
from supawire.options import ChannelOptions, Secret
from supawire.selectors import ANY, ChangesSelector

_DEFAULTS: Final[dict[str, Any]] = {"event": ANY, "schema": "public", "table": ANY, "filter": "", "select": []}


class Join(Struct, frozen=True):
    """One join as requested. It is active from the server's ok reply until it ends."""

    ref: str
    bindings: tuple[ChangesSelector[Any], ...] = ()
    presence: bool = False
    token: Secret | None = None


def join_payload(join: Join, options: ChannelOptions, replay: dict[str, int] | None) -> dict[str, Any]:
    """Return the payload of `phx_join`. No member is ever null."""
    broadcast: dict[str, Any] = {"self": options.echo, "ack": options.ack}
    if replay is not None:
        broadcast["replay"] = replay
    if options.replication_ready:
        broadcast["replication_ready"] = True
    who: dict[str, Any] = {"enabled": join.presence}
    if options.presence_key is not None:
        who["key"] = options.presence_key
    config = {
        "broadcast": broadcast,
        "presence": who,
        "postgres_changes": [binding.binding() for binding in join.bindings],
        "private": options.private,
    }
    shown = on_wire(join.token)
    return {"config": config} if shown is None else {"config": config, "access_token": shown}


def binding_ids(
    bindings: Sequence[ChangesSelector[Any]], response: Raw, topic: str
) -> tuple[dict[ChangesSelector[Any], int], list[JoinError]]:
    """Return the server's id of each binding, and an error for each binding that was not confirmed as sent."""
    echoed = items((members(read(response)) or {}).get("postgres_changes"))
    ids: dict[ChangesSelector[Any], int] = {}
    errors: list[JoinError] = []
    for place, binding in enumerate(bindings):
        echo = members(echoed[place]) if place < len(echoed) else None
        number = echo.get("id") if echo is not None else None
        if isinstance(number, int) and not isinstance(number, bool):
            ids[binding] = number
        if binding not in ids or _plain(echo) != _plain(binding.binding()):
            errors.append(_mismatch(binding, echo, topic))
    return ids, errors


def _plain(binding: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a binding with defaults for missing and null members, and the event in upper case."""
    if binding is None:
        return None
    plain: dict[str, Any] = {name: binding.get(name) or default for name, default in _DEFAULTS.items()}
    return {**plain, "event": str(plain["event"]).upper()}


def _mismatch(binding: ChangesSelector[Any], echo: Any, topic: str) -> JoinError:
    return JoinError(
        f"the server confirmed {binding.binding()} as {echo}: its changes may not arrive",
        topic=topic,
        retryable=True,
        hint="An older server ignores select and newer filters; compare its version with the documentation.",
    )
