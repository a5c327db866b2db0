"""Decoding of the `phx_join` payload, as tolerant as the real server. See docs/protocol.md, Join payload.

A value of the wrong type is not refused but replaced by the default, so a mistyped `private` joins the public channel.
"""

from dataclasses import dataclass
from typing import Any, Final

from supawire.core.frames import PREFIX
from supawire.server.queries import Replay
from supawire.server.wire import is_list, is_object

NO_SUCH_CLAUSE: Final = "UnknownErrorOnChannel: no function clause matching in Access.get/3"
REPLAY_PUBLIC: Final = "UnableToReplayMessages: Replay is not allowed for public channels"
REPLAY_PARAMS: Final = "UnableToReplayMessages: Replay params are not valid"
DEFAULT_WAIT: Final = 15_000
MAX_WAIT: Final = 20_000
"""Milliseconds for which a join waits until its changes are live: by default, and at most."""
MAX_REPLAY: Final = 25
"""Maximum number of replayed messages, and the default."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """The configuration requested by a join."""

    private: bool = False
    self_send: bool = False
    ack: bool = False
    presence: bool = False
    presence_key: str = ""
    replication_ready: bool = False
    replay: Replay | None = None
    changes: tuple[Json, ...] = ()
    """The elements of `postgres_changes`, as sent."""
    wait: int | None = None
    """Milliseconds for which the join waits until its changes are live, None if it does not wait."""
    legacy: bool = False
    token: str | None = None
    problem: str | None = None
    """Why the join fails despite a valid token."""
    unanswered: bool = False
    """Whether the real server never replies to this join."""

    def __repr__(self) -> str:
        return f"JoinConfig(private={self.private}, changes={len(self.changes)})"  # without the token


def parse_join(topic: str, payload: Json) -> JoinConfig:
    """Return the configuration of a join payload; invalid values are treated as missing."""
    token = _token(payload)
    if "config" not in payload:
        return JoinConfig(legacy=True, changes=(_legacy_binding(topic),), token=token)
    config = payload["config"]
    if config is not None and not is_object(config):
        return JoinConfig(token=token, problem=NO_SUCH_CLAUSE)
    config = _object(config)
    if not isinstance(config.get("broadcast"), dict | None):
        return JoinConfig(token=token, unanswered=True)
    broadcast, presence = _object(config.get("broadcast")), _object(config.get("presence"))
    private = _flag(config.get("private"))
    replay, problem = _replay(broadcast, private=private)
    return JoinConfig(
        private=private,
        self_send=_flag(broadcast.get("self")),
        ack=_flag(broadcast.get("ack")),
        presence=_flag(presence.get("enabled")),
        presence_key=_key(presence.get("key")),
        replication_ready=broadcast.get("replication_ready") not in (None, False),
        replay=replay,
        changes=_changes(config.get("postgres_changes")),
        wait=_wait(_object(config.get("postgres_changes_options"))),
        token=token,
        problem=problem,
    )


def _object(value: object) -> Json:
    return value if is_object(value) else {}


def _flag(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _key(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)


def _changes(value: object) -> tuple[Json, ...]:
    items = [item for item in value if item is not None] if is_list(value) else []
    return tuple(items) if all(map(is_object, items)) else ()


def _wait(options: Json) -> int | None:
    timeout = options.get("timeout")
    if type(timeout) is not int or timeout <= 0:
        timeout = DEFAULT_WAIT
    return min(timeout, MAX_WAIT) if _flag(options.get("wait")) else None


def _replay(broadcast: Json, *, private: bool) -> tuple[Replay | None, str | None]:
    if "replay" not in broadcast:
        return None, None
    if not private:
        return None, REPLAY_PUBLIC
    wanted = broadcast["replay"]
    if wanted is None:
        return None, None
    replay = _parse_replay(wanted) if is_object(wanted) else None
    return replay, None if replay else REPLAY_PARAMS


def _parse_replay(value: dict[str, Any]) -> Replay | None:
    """Return the `replay` of a join; None when it is invalid. See docs/protocol.md, Replay."""
    since, limit = value.get("since"), value.get("limit")
    if limit is None:
        limit = MAX_REPLAY
    if type(since) is not int or type(limit) is not int:
        return None
    return Replay(since, min(max(limit, 1), MAX_REPLAY))


def _token(payload: Json) -> str | None:
    """Return the channel's own token; `user_token`, an old name, takes precedence over `access_token`."""
    newer, older = payload.get("access_token"), payload.get("user_token")
    token = older if isinstance(newer, str) and isinstance(older, str) else newer
    if token is None:
        token = older
    return usable(token)


def usable(token: object) -> str | None:
    """Return the token; None for what the server ignores: API keys of the newer kind and values other than strings."""
    return token if isinstance(token, str) and not token.startswith("sb_") else None


def _legacy_binding(topic: str) -> Json:
    """Return the topic `schema[:table[:filter]]` of a join without config as a binding."""
    names = ("schema", "table", "filter")
    parts = topic.removeprefix(PREFIX).split(":", 2)
    return dict(zip(names, parts, strict=False))
