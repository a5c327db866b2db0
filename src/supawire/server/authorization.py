"""Authorization of reads and writes on private channels. See docs/protocol.md, Authorization.

Without a database a policy function takes the place of row level security policies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from supawire.server.connection import ServerChannel
from supawire.server.queries import (
    Action,
    Extension,
    PermissionsQuery,
    QueryError,
    QueryFailed,
    Requester,
    Steps,
    run_queries,
    run_query,
)

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


class ReadAccess(NamedTuple):
    """Read access of a channel."""

    broadcast: bool
    presence: bool


FULL_ACCESS: Final = ReadAccess(broadcast=True, presence=True)
NO_ACCESS: Final = ReadAccess(broadcast=False, presence=False)


class Authorization:
    """Queries and caches access rights; a new token of a channel clears its cache."""

    def __init__(self, policy: Policy, report: Callable[[str], None]) -> None:
        self.policy = policy
        self._report = report

    # --- the policy function ---

    def decide(self, query: PermissionsQuery) -> frozenset[Extension]:
        """Return the extensions that the policy function allows."""
        return frozenset(extension for extension in query.extensions if self._may(query, extension))

    def _may(self, query: PermissionsQuery, extension: Extension) -> bool:
        """Return the policy's decision; an exception denies access and is reported."""
        topic, action = query.topic, query.action
        try:
            return bool(self.policy(dict(query.requester.claims.values), topic, extension, action))
        except Exception as error:  # noqa: BLE001  a policy is the user's code, and fails closed
            self._report(f"the policy raised {type(error).__name__} for {extension} {action} on {topic!r}: denied")
            return False

    # --- queries ---

    def read(self, who: Requester, topic: str, *, private: bool, presence: bool) -> Steps[ReadAccess]:
        """Return read access; presence is queried only when requested. A policy that fails denies access."""
        if not private:
            return FULL_ACCESS
        extensions: tuple[Extension, ...] = ("broadcast", "presence") if presence else ("broadcast",)
        return (yield from self._read(PermissionsQuery(who, topic, "read", extensions)))

    def read_presence(self, channel: ServerChannel) -> Steps[None]:
        """Set whether a channel that joined without presence may read it."""
        try:
            reads = yield from self._read(PermissionsQuery(channel.requester, channel.sub_topic, "read", ("presence",)))
        except QueryFailed:
            reads = NO_ACCESS
        channel.reads_presence = channel.receives_presence_diffs = reads.presence

    def _read(self, query: PermissionsQuery) -> Steps[ReadAccess]:
        try:
            answer = yield from self._ask(query)
        except QueryFailed as failed:
            if failed.error is not QueryError.POLICY:
                raise
            return NO_ACCESS
        return ReadAccess("broadcast" in answer, "presence" in answer)

    def may_write(self, channel: ServerChannel, extension: Extension) -> bool | None:
        """Return the cached right to send or track; None when it has not been queried yet."""
        return channel.writes.get(extension) if channel.private else True

    def write(self, channel: ServerChannel, extension: Extension) -> Steps[bool]:
        """Return the right to send or track. A query that fails denies it, but the next frame queries again."""
        if (known := self.may_write(channel, extension)) is not None:
            return known
        try:
            answer = yield from self._ask(PermissionsQuery(channel.requester, channel.sub_topic, "write", (extension,)))
        except QueryFailed:
            return False
        channel.writes[extension] = extension in answer
        return channel.writes[extension]

    def write_broadcasts(self, who: Requester, topics: Iterable[str]) -> Steps[dict[str, bool | QueryError]]:
        """Return the right to send broadcasts for each of these private topics, or the error of its query."""
        queries = [PermissionsQuery(who, topic, "write", ("broadcast",)) for topic in topics]
        if _has_invalid_sub(who):
            return {query.topic: QueryError.UNKNOWN for query in queries}
        answers = yield from run_queries(queries)
        return {
            query.topic: answer if isinstance(answer, QueryError) else "broadcast" in answer
            for query, answer in zip(queries, answers, strict=True)
        }

    def _ask(self, query: PermissionsQuery) -> Steps[frozenset[Extension]]:
        if _has_invalid_sub(query.requester):
            raise QueryFailed(QueryError.UNKNOWN)
        return (yield from run_query(query))


def _has_invalid_sub(who: Requester) -> bool:
    """Return whether the claim `sub` is not a string; the real server's query then fails."""
    return not isinstance(who.claims.values.get("sub", ""), str)
