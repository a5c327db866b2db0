"""Who may read and write private channels (protocol §7.4).

Without a database, a policy function stands in for the policies of a table. With one, the database decides, and
`Authorization` waits for its answer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from supawire.server.connection import ServerChannel
from supawire.server.mailboxes import Mailboxes
from supawire.server.pending_queries import PendingQueries
from supawire.server.queries import Action, Extension, PermissionsQuery, QueryError, Who

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


class Reads(NamedTuple):
    """What may be read."""

    broadcast: bool
    presence: bool


EVERYTHING: Final = Reads(broadcast=True, presence=True)


class Authorization:
    """Rights are asked for here, once, and kept until a new token."""

    def __init__(
        self, policy: Policy, asking: PendingQueries, standing: Mailboxes, report: Callable[[str], None]
    ) -> None:
        self.policy = policy
        self._asking = asking
        self._standing = standing
        self._report = report
        asking.register_local(PermissionsQuery, self._decide)

    # --- the policy function ---

    def _decide(self, asked: PermissionsQuery) -> frozenset[Extension]:
        return frozenset(extension for extension in asked.extensions if self._may(asked, extension))

    def _may(self, asked: PermissionsQuery, extension: Extension) -> bool:
        """What the policy says; no when it raises, which is reported."""
        topic, action = asked.topic, asked.action
        try:
            return bool(self.policy(dict(asked.who.claims.values), topic, extension, action))
        except Exception as error:  # noqa: BLE001  a policy is the user's code, and fails closed
            self._report(f"the policy raised {type(error).__name__} for {extension} {action} on {topic!r}: denied")
            return False

    # --- questions ---

    def read(
        self, who: Who, topic: str, *, private: bool, presence: bool, then: Callable[[Reads | QueryError], None]
    ) -> None:
        """Find out what may be read; presence is only asked for when it is wanted. A policy that fails is a no."""

        def heard(answer: frozenset[Extension] | QueryError) -> None:
            if isinstance(answer, QueryError) and answer is not QueryError.POLICY:
                then(answer)
            else:
                then(_reads(answer))

        if not private:
            then(EVERYTHING)
            return
        extensions: tuple[Extension, ...] = ("broadcast", "presence") if presence else ("broadcast",)
        self.ask(PermissionsQuery(who, topic, "read", extensions), heard)

    def ask(self, question: PermissionsQuery, then: Callable[[frozenset[Extension] | QueryError], None]) -> None:
        """Find out what is allowed. Claims with a `sub` that is not a string fail, as the real server's query does."""
        if isinstance(question.who.claims.values.get("sub", ""), str):
            self._asking.ask(question, then)
        else:
            then(QueryError.UNKNOWN)

    def hear_presence(self, channel: ServerChannel, then: Callable[[], None]) -> None:
        """Find out whether a channel may read presence after all; its frames wait meanwhile."""

        def heard(answer: frozenset[Extension] | QueryError) -> None:
            channel.reads_presence = channel.hears_presence = _reads(answer).presence
            then()

        question = PermissionsQuery(channel.who, channel.sub_topic, "read", ("presence",))
        self._standing.until_for(channel, lambda done: self.ask(question, done), heard)

    def may_write(self, channel: ServerChannel, extension: Extension) -> bool | None:
        """Whether a channel may send or track; None when that is not known yet."""
        return channel.writes.get(extension) if channel.private else True

    def write(self, channel: ServerChannel, extension: Extension, then: Callable[[bool], None]) -> None:
        """Find out whether a channel may send or track; its frames wait meanwhile."""

        def heard(answer: frozenset[Extension] | QueryError) -> None:
            if isinstance(answer, QueryError):  # a no that is not kept: the next frame asks again
                then(False)
                return
            channel.writes[extension] = extension in answer
            then(channel.writes[extension])

        if (known := self.may_write(channel, extension)) is not None:
            then(known)
            return
        question = PermissionsQuery(channel.who, channel.sub_topic, "write", (extension,))
        self._standing.until_for(channel, lambda done: self.ask(question, done), heard)


def _reads(answer: frozenset[Extension] | QueryError) -> Reads:
    if isinstance(answer, QueryError):
        return Reads(broadcast=False, presence=False)
    return Reads("broadcast" in answer, "presence" in answer)
