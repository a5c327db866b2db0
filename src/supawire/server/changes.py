"""Row changes: subscriptions, matching and frames. See docs/protocol.md, Postgres changes.

Without a database, changes come from `emit`. There is no catalog: every binding with valid parameters is subscribed
immediately, the primary key is the column `id`, and a filter on a column that the change does not have is false.

With a database, the backend matches changes to channels. It confirms subscriptions, confirms them again after an
outage, and passes finished rows to `deliver`.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from supawire._values.encode import to_wire
from supawire._values.filter_syntax import matches
from supawire.core.frames import POSTGRES_CHANGES
from supawire.events import Instant
from supawire.server.bindings import ANY, UNPUBLISHED, Binding, RowChange, bind
from supawire.server.connection import ServerChannel
from supawire.server.connections import Connections
from supawire.server.join_config import JoinConfig
from supawire.server.limits import Meter, ServerLimits
from supawire.server.outbox import Outbox
from supawire.server.queries import QueryFailed, Sleep, Steps, SubscribeQuery, run_query
from supawire.server.rooms import Rooms
from supawire.server.stepper import GeneratorStepper
from supawire.server.wire import encode, text

SUBSCRIBED: Final = "Subscribed to PostgreSQL"
TIMEOUTS: Final = '{:error, "Too many database timeouts"}'
WAIT_TIMEOUT: Final = (
    "PostgresChangesSubscribeTimeout: Timed out after {}ms waiting for the postgres_changes subscription"
)
NOT_ENABLED: Final = "RealtimeDisabledForConfiguration: {}"
WAIT_RETRY_DELAY: Final = 0.5
"""Seconds until a failed subscription is retried while a join waits for it."""
RETRY_DELAY: Final = 5.0
"""Seconds until a failed subscription is retried."""
NO_DATA: Final = ("Error 400", "Error 401")
TOO_LARGE: Final = "Error 413: Payload Too Large"
MAX_VALUE_KEPT: Final = 64
"""Maximum bytes of JSON of a value that remains in a row that is too large."""


class Delivery(NamedTuple):
    """A database change for one channel: the ids of the matching bindings, and the frame's `data`."""

    channel: int
    ids: tuple[int, ...]
    type: str
    data: bytes


class Watcher(Protocol):
    """A receiver of every row change, for inspection."""

    def changed(self, data: bytes, receivers: int, now: Instant) -> None:
        """Handle one change: the `data` of its frames, and the number of channels that it was sent to."""
        ...


class Changes:
    """Subscribes bindings and delivers changes to channels."""

    def __init__(
        self, outbox: Outbox, rooms: Rooms, connections: Connections, stepper: GeneratorStepper, limits: ServerLimits
    ) -> None:
        self._outbox = outbox
        self._rooms = rooms
        self._connections = connections
        self._stepper = stepper
        self._limits = limits
        self._meter = Meter(limits.changes)
        self.watchers: Final[list[Watcher]] = []
        """Receivers of every change."""
        self.problem: str | None = None
        """Why row changes are currently lost, or None."""
        stepper.register_local(SubscribeQuery, lambda query: None)
        self._schemas = {"public", ANY}
        """Known schemas; a join without `config` to any other schema is refused."""

    def bind(self, config: JoinConfig) -> tuple[Binding, ...]:
        """Return the bindings of a join."""
        return tuple(bind(element, database=self._stepper.external) for element in config.changes)

    def subscribe(self, channel: ServerChannel) -> None:
        """Subscribe the channel's bindings and send the result; one invalid binding makes all of them fail."""
        self._stepper.run(self._subscribe(channel))

    def _subscribe(self, channel: ServerChannel) -> Steps[None]:
        while channel.bindings and channel.open:
            error = next((error for binding in channel.bindings if (error := self._error(channel, binding))), None)
            if error is not None:
                self._subscribed(channel, error)
                return
            if self._stepper.external:
                self._rooms.database_channels[channel.id] = channel
            try:
                answer = yield from run_query(SubscribeQuery(channel.id, channel.requester, channel.bindings))
            except QueryFailed:
                self._subscribed(channel, TIMEOUTS)
                yield Sleep(RETRY_DELAY)
            else:
                self._subscribed(channel, answer)
                return

    def establish(self, channel: ServerChannel, timeout: int) -> Steps[str | None]:
        """Subscribe the bindings of a channel whose join waits for it; return the reason of the refusal, if any.

        timeout: milliseconds.
        """
        deadline = self._outbox.now.mono + timeout / 1000
        error = next((error for binding in channel.bindings if (error := self._error(channel, binding))), None)
        while error is None:
            if self._stepper.external:
                self._rooms.database_channels[channel.id] = channel
            answer: str | None = TIMEOUTS
            try:
                answer = yield from run_query(SubscribeQuery(channel.id, channel.requester, channel.bindings))
            except QueryFailed:
                if (left := deadline - self._outbox.now.mono) > 0:
                    yield Sleep(min(WAIT_RETRY_DELAY, left))
                    continue
                return WAIT_TIMEOUT.format(timeout)
            finally:
                if answer is not None:
                    self._rooms.unsubscribe(channel)
            if answer is None:
                return None
            error = answer
        return NOT_ENABLED.format(error)

    def established(self, channel: ServerChannel) -> None:
        """Send the result of `establish`, after the reply to the join."""
        self._subscribed(channel, None)

    def _subscribed(self, channel: ServerChannel, error: str | None) -> None:
        """Send the result of a subscription."""
        if channel.open:
            channel.subscribed = error is None
            self._outbox.system(channel, POSTGRES_CHANGES, "error" if error else "ok", error or SUBSCRIBED)

    def _error(self, channel: ServerChannel, binding: Binding) -> str | None:
        """Return the error of a binding, if any.

        A join without `config` takes its schema from the topic, so there the schema must exist.
        """
        check_schema = channel.config.legacy and not self._stepper.external
        if binding.error is None and check_schema and binding.schema not in self._schemas:
            return UNPUBLISHED.format(given=binding.description)
        return binding.error

    def resubscribed(self, number: int, answer: str | None) -> None:
        """Handle the result when the backend has subscribed the bindings of a channel again."""
        if (channel := self._rooms.database_channels.get(number)) is not None:
            self._subscribed(channel, answer)

    def interrupted(self) -> None:
        """Notify every subscribed channel that changes are lost until `resubscribed`."""
        for channel in list(self._rooms.database_channels.values()):
            if channel.subscribed:
                channel.subscribed = False
                self._outbox.system(channel, POSTGRES_CHANGES, "error", TIMEOUTS)

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Deliver changes from the database to their channels; changes over the rate limit are dropped."""
        mono = self._outbox.now.mono
        for delivery in deliveries:
            channel = self._rooms.database_channels.get(delivery.channel)
            if channel is not None and not self._meter.tripped(mono):
                self._deliver(channel, delivery.type, delivery.ids, delivery.data)
                self._meter.count(mono)

    def show_lost(self, changes: Iterable[tuple[str, str, str]]) -> None:
        """Show the watchers changes that were delivered to no channel."""
        errors = [self.problem or "lost"]
        for schema, table, kind in changes if self.watchers else ():
            self._show(encode({"schema": schema, "table": table, "type": kind, "errors": errors}), 0)

    def emit(self, change: RowChange) -> None:
        """Send a change to every channel with a matching binding; changes over the rate limit are dropped."""
        self._schemas.add(change.schema)
        mono = self._outbox.now.mono
        if self._meter.tripped(mono):
            return
        stamp = _stamp(self._outbox.now.wall)
        data: dict[tuple[str, ...] | None, bytes] = {}
        for peer in self._connections.peers.values():
            for channel in peer.channels.values():
                for select, ids in _matching(channel, change).items():
                    if select not in data:
                        data[select] = encode(self._data(change, select, stamp))
                    self._deliver(channel, change.type, ids, data[select])
                    self._meter.count(mono)
        if self.watchers and not data:
            self._show(encode(self._data(change, None, stamp)), 0)

    def _deliver(self, channel: ServerChannel, type: str, ids: Sequence[int], data: bytes) -> None:
        legacy = channel.config.legacy
        payload = data if legacy else b'{"data":%b,"ids":%b}' % (data, encode(ids))
        event = type if legacy else POSTGRES_CHANGES
        self._show(data, 1)
        self._outbox.send(channel.peer, text(channel.peer.v2, channel.wire_topic, event, payload))

    def _show(self, data: bytes, receivers: int) -> None:
        for watcher in self.watchers:
            watcher.changed(data, receivers, self._outbox.now)

    def _data(self, change: RowChange, select: tuple[str, ...] | None, stamp: str) -> dict[str, Any]:
        """Return the `data` of a frame, restricted to the selected columns and the key.

        See docs/protocol.md, Change payload.
        """
        hidden = any(error.startswith(NO_DATA) for error in change.errors)
        visible = {name for name, _ in change.columns if select is None or name in select or name in change.key}
        data: dict[str, Any] = {
            "schema": change.schema,
            "table": change.table,
            "type": change.type,
            "commit_timestamp": None if hidden else stamp,
            "columns": [] if hidden else [{"name": n, "type": t} for n, t in change.columns if n in visible],
            "errors": list(change.errors) or None,
        }
        for name, row in (("record", change.record), ("old_record", change.old_record)):
            if row is not None:
                keys = () if hidden else sorted(visible.intersection(row), key=jsonb_order)
                data[name] = {key: to_wire(row[key]) for key in keys}
        return data if hidden else self._fit(data)

    def _fit(self, data: dict[str, Any]) -> dict[str, Any]:
        """Remove long values from a row that is too large, and add the error for it."""
        limit = self._limits.change_bytes
        if limit is not None and len(encode(data)) > limit:
            data["errors"] = [TOO_LARGE]
        if TOO_LARGE in (data["errors"] or ()):
            for name in ("record", "old_record"):
                if name in data:
                    data[name] = {key: item for key, item in data[name].items() if len(encode(item)) <= MAX_VALUE_KEPT}
        return data


def _matching(channel: ServerChannel, change: RowChange) -> dict[tuple[str, ...] | None, list[int]]:
    """Return the ids of the matching bindings by select list; each list gets a frame of its own."""
    found: dict[tuple[str, ...] | None, list[int]] = {}
    if channel.subscribed:
        row = change.record if change.type != "DELETE" else change.old_record
        for binding in channel.bindings:
            wanted = binding.covers(change.type, change.schema, change.table)
            if wanted and matches(binding.conditions, row or {}, dict(change.columns)):
                found.setdefault(binding.select, []).append(binding.id)
    return found


def jsonb_order(key: str) -> tuple[int, bytes]:
    """Return the sort key of a column: jsonb orders keys by length, then by bytes."""
    raw = key.encode()
    return len(raw), raw


def _stamp(wall: float) -> str:
    """Return the time in UTC with exactly three decimals."""
    at = datetime.fromtimestamp(int(wall * 1000) / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
