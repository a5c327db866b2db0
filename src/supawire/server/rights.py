"""Who may read and write private channels (protocol §7.4); the memory level's stand-in for policies on a table."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from supawire.server.channel import Channel
from supawire.server.tokens import Claims

Extension: TypeAlias = Literal["broadcast", "presence"]
Action: TypeAlias = Literal["read", "write"]
Policy: TypeAlias = Callable[[Mapping[str, Any], str, Extension, Action], bool]
"""`policy(claims, topic, extension, action)` says whether the holder of these claims may do that.

`claims` are those of the token, `topic` is the sub-topic (without `realtime:`), `extension` is `"broadcast"` or
`"presence"`, `action` is `"read"` or `"write"`. Called only for private channels: at the join for reading (presence
only when it is enabled), at the first broadcast and the first `track` for writing; answers are kept until the channel
gets a new token. One that raises denies.
"""

TRUSTED: Final = frozenset({"service_role", "authenticated"})


def default_policy(claims: Mapping[str, Any], topic: str, extension: Extension, action: Action) -> bool:
    """Signed-in users and the service may do everything, `anon` and every other role nothing."""
    del topic, extension, action
    return claims.get("role") in TRUSTED


class Rights:
    """The policy, asked safely."""

    def __init__(self, policy: Policy, report: Callable[[str], None]) -> None:
        self.policy = policy
        self._report = report

    def may(self, claims: Claims, topic: str, extension: Extension, action: Action) -> bool:
        """What the policy says; no when it raises, which is reported."""
        try:
            return bool(self.policy(dict(claims.values), topic, extension, action))
        except Exception as error:  # noqa: BLE001  a policy is the user's code, and fails closed
            self._report(f"the policy raised {type(error).__name__} for {extension} {action} on {topic!r}: denied")
            return False

    def may_write(self, channel: Channel, extension: Extension) -> bool:
        """Whether a channel may send or track; asked once, kept until a new token."""
        if not channel.private:
            return True
        if extension not in channel.writes:
            channel.writes[extension] = self.may(channel.claims, channel.sub_topic, extension, "write")
        return channel.writes[extension]

    def read_rights(self, claims: Claims, topic: str, *, private: bool, presence: bool) -> tuple[bool, bool]:
        """Whether broadcasts, and whether presence may be read; presence is only asked for when it is wanted."""
        if not private:
            return True, True
        broadcast = self.may(claims, topic, "broadcast", "read")
        return broadcast, presence and self.may(claims, topic, "presence", "read")
