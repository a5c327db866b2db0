"""Authorization of reads and writes on private channels. See docs/protocol.md, Authorization.

Without a database a policy function takes the place of row level security policies. With a database `Authorization`
queries the database and waits for the answer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from supawire.server.connection import ServerChannel
from supawire.server.mailboxes import Mailboxes
from supawire.server.pending_queries import PendingQueries
from supawire.server.queries import Action, Extension, PermissionsQuery, QueryError, Who

Policy: TypeAlias = Callable[[Mapping[str, Any], str, Extension, Action], bool]
"""`policy(claims, topic, extension, action)` returns whether the owner of these claims is allowed the action.

`claims` are those of the token, `topic` has no `realtime:` prefix, `extension` is `"broadcast"` or `"presence"`,
`action` is `"read"` or `"write"`. The policy is called only for private channels: for reading at the join (presence
only when it is enabled), for writing at the first broadcast and the first `track`. Results are cached until the
channel gets a new token. An exception denies access.
"""

TRUSTED: Final = frozenset({"service_role", "authenticated"})


def default_policy(claims: Mapping[str, Any], topic: str, extension: Extension, action: Action) -> bool:
    """Allow everything to `authenticated` and `service_role`, and nothing to `anon` and any other role."""
    del topic, extension, action
    return claims.get("role") in TRUSTED


class Reads(NamedTuple):
    """Read access of a channel."""

    broadcast: bool
    presence: bool


EVERYTHING: Final = Reads(broadcast=True, presence=True)


class Authorization:
    """Queries and caches access rights; a new token of a channel clears its cache."""

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
        """Return the policy's decision; an exception denies access and is reported."""
        topic, action = asked.topic, asked.action
        try:
            return bool(self.policy(dict(asked.who.claims.values), topic, extension, action))
        except Exception as error:  # noqa: BLE001  a policy is the user's code, and fails closed
            self._report(f"the policy raised {type(error).__name__} for {extension} {action} on {topic!r}: denied")
            return False

    # --- queries ---

    def read(
        self, who: Who, topic: str, *, private: bool, presence: bool, then: Callable[[Reads | QueryError], None]
    ) -> None:
        """Query read access; presence is queried only when requested. A policy that fails denies access."""

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
        """Query access rights. Claims with a `sub` that is not a string fail, as the real server's query does."""
        if isinstance(question.who.claims.values.get("sub", ""), str):
            self._asking.ask(question, then)
        else:
            then(QueryError.UNKNOWN)

    def hear_presence(self, channel: ServerChannel, then: Callable[[], None]) -> None:
        """Query read access to presence on a channel joined without it; the channel's frames wait meanwhile."""

        def heard(answer: frozenset[Extension] | QueryError) -> None:
            channel.reads_presence = channel.hears_presence = _reads(answer).presence
            then()

        question = PermissionsQuery(channel.who, channel.sub_topic, "read", ("presence",))
        self._standing.until_for(channel, lambda done: self.ask(question, done), heard)

    def may_write(self, channel: ServerChannel, extension: Extension) -> bool | None:
        """Return the cached right to send or track; None when it has not been queried yet."""
        return channel.writes.get(extension) if channel.private else True

    def write(self, channel: ServerChannel, extension: Extension, then: Callable[[bool], None]) -> None:
        """Query the right to send or track; the channel's frames wait meanwhile."""

        def heard(answer: frozenset[Extension] | QueryError) -> None:
            if isinstance(answer, QueryError):  # denied, but not cached: the next frame queries again
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
