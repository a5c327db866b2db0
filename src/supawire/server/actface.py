"""What a local server does when its owner says so, as methods of `LocalServer`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from supawire.errors import InvalidArgumentError
from supawire.options import check_bool, check_event, check_json, check_topic
from supawire.server.emitted import Change, Row, make_change
from supawire.server.hub import Hub
from supawire.types import Instant

T = TypeVar("T")


class ActFace:
    """Changes and messages of the server itself; each is carried to the server's thread and done there."""

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        raise NotImplementedError

    def _memory_only(self, name: str) -> None:
        raise NotImplementedError

    def emit(
        self,
        type: str,
        table: str,
        *,
        record: Row | None = None,
        old_record: Row | None = None,
        schema: str = "public",
        columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
        errors: str | Sequence[str] | None = None,
    ) -> None:
        """A row changed: everyone with a matching binding is told (protocol §4).

        Args: type: INSERT, UPDATE or DELETE. record: the new row, as Python values. old_record: the old one; a DELETE
        needs it, an UPDATE without has the new row's `id`. columns: types by name, or a list of `{"name", "type"}`;
        left out, taken from the values. errors: the frame's `errors`, such as `"Error 401: Unauthorized"`.
        Raises: InvalidArgumentError. StateError where there is a database: rows change in it, with `sql`.
        """
        self._memory_only("emit")
        change = make_change(
            type, table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors
        )
        self._emit(change)

    def _emit(self, change: Change) -> None:
        self._do(lambda hub, now: hub.emit(change, now))

    def emit_update(
        self,
        table: str,
        *,
        record: Row | None = None,
        old_record: Row | None = None,
        schema: str = "public",
        columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
        errors: str | Sequence[str] | None = None,
    ) -> None:
        """A row was updated; see `emit`."""
        self.emit("UPDATE", table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors)

    def emit_delete(
        self,
        table: str,
        *,
        record: Row | None = None,
        old_record: Row | None = None,
        schema: str = "public",
        columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
        errors: str | Sequence[str] | None = None,
    ) -> None:
        """A row was deleted; see `emit`."""
        self.emit("DELETE", table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors)

    def send(self, topic: str, event: str, payload: Mapping[str, Any] | bytes, private: bool = True) -> str:
        """Store a message and deliver it, as the database function `realtime.send` does (protocol §6.4).

        `payload` is an object, to which `id` is added unless it has one, or bytes. Private ones can be replayed (§6.3).
        Returns the message's id. Raises: InvalidArgumentError. StateError where there is a database, which sends it.
        """
        self._memory_only("send")
        if not isinstance(payload, Mapping | bytes):
            raise InvalidArgumentError(
                f"payload is an object or bytes, not {payload.__class__.__name__}: others are not stored"
            )
        _check_message(topic, event, private)
        if not isinstance(payload, bytes):
            check_json(payload)
        body = payload if isinstance(payload, bytes) else dict(payload)
        return self._do(lambda hub, now: hub.send(topic, event, body, now, private=private))

    def broadcast(self, topic: str, event: str, payload: Any, private: bool = False) -> None:
        """Deliver a message that is not stored, as the HTTP interface does."""
        _check_message(topic, event, private)
        check_json(payload)
        self._do(lambda hub, now: hub.broadcast(topic, event, payload, now, private=private))

    def request_disconnect(self) -> None:
        """`Server requested disconnect` on every channel, then close code 1012 (protocol §3.6)."""
        self._do(lambda hub, now: hub.request_disconnect(now))


def _check_message(topic: str, event: str, private: bool) -> None:
    check_topic(topic)
    check_event(event)
    check_bool("private", private)
