"""What a bridge decides, without I/O and clock: which rows become messages, which are sent next, when to try again."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from supawire._mirror_events import MirrorEvent, Resynced, RowDeleted, RowInserted, RowUpdated
from supawire._values.encode import to_json
from supawire.bridge.messages import BridgeMessage, Draft, Failure, Result
from supawire.core.pacing import Uniform, delay
from supawire.options import Backoff

DIGEST_SIZE: Final = 16
"""Bytes of the digest of a row."""


class TableChanges:
    """Turns the events of a mirror into messages, for those rows that differ from what was handed on before.

    Args: key: the columns of the primary key. rows: the digests by key, as the checkpoint has them; they are kept up to
    date here. snapshot: whether the rows of the first `Resynced` become messages; if not, they are only recorded.
    """

    def __init__(
        self, schema: str, table: str, key: Sequence[str], rows: dict[bytes, bytes], *, snapshot: bool
    ) -> None:
        self._names: Final = {"schema": schema, "table": table}
        self._subject: Final = ("changes", schema, table)
        self._key: Final = tuple(key)
        self._rows: Final = rows
        self._silent = not snapshot
        self._started = False

    def drafts(self, event: MirrorEvent[Any]) -> Iterator[Draft]:
        """Yield the messages for one event of the mirror."""
        match event:
            case RowInserted():
                yield from self._written(event.row, None)
            case RowUpdated():
                if self._key_of(event.old) != self._key_of(event.row):
                    yield from self._deleted(self._key_of(event.old), None)
                yield from self._written(event.row, None)
            case RowDeleted():
                yield from self._deleted(self._key_of(event.old), None)
            case Resynced():
                yield from self._resynced(list(event.rows.values()), event.reason if self._started else "start")
                self._started, self._silent = True, False

    def _resynced(self, rows: list[dict[str, Any]], reason: str) -> Iterator[Draft]:
        gone = self._rows.keys() - {self._key_of(row) for row in rows}
        for key in sorted(gone):
            yield from self._deleted(key, reason)
        for row in rows:
            yield from self._written(row, reason)

    def _key_of(self, row: dict[str, Any]) -> bytes:
        return to_json({column: row.get(column) for column in self._key}).encode()

    def _written(self, row: dict[str, Any], reason: str | None) -> Iterator[Draft]:
        key, record = self._key_of(row), to_json(row, ordered=True).encode()
        digest = blake2b(record, digest_size=DIGEST_SIZE).digest()
        before = self._rows.get(key)
        if before == digest:
            return
        self._rows[key] = digest
        yield self._draft("UPDATE" if before else "INSERT", key, record, digest, reason)

    def _deleted(self, key: bytes, reason: str | None) -> Iterator[Draft]:
        if self._rows.pop(key, None) is not None:
            yield self._draft("DELETE", key, None, None, reason)

    def _draft(self, kind: str, key: bytes, record: bytes | None, digest: bytes | None, reason: str | None) -> Draft:
        fields: dict[str, Any] = {"kind": "change", "type": kind, **self._names, "key": Raw(key)}
        if record is not None:
            fields["record"] = Raw(record)
        if reason is not None:
            fields["resynced"] = reason
        text = f"{self._subject[1]}.{self._subject[2]}:{key.decode()}"
        body = None if self._silent else msgspec.json.encode(fields)
        return Draft(self._subject, text, body, row=key, digest=digest)


class Step(Struct, frozen=True):
    """What follows from the results of a wave.

    Attributes: stored, duplicates: how many the broker has stored now, or had already. dead: messages that will not be
    sent again, and why. failure: the first other failure, None if there is none. delay: seconds until the next wave.
    """

    stored: int
    duplicates: int
    dead: tuple[tuple[BridgeMessage, Failure], ...]
    failure: Failure | None
    delay: float


class Delivery:
    """The messages of one batch on their way to the broker: what is sent next, and what happens after failures.

    Messages with the same key are never in one wave, unless the broker keeps their order, and a later one waits until
    the earlier one is stored or dead. A broker that is away is tried without end.

    Args: attempts: how often one message is tried that the broker refuses.
    """

    def __init__(
        self, messages: Sequence[BridgeMessage], *, ordered: bool, wave: int, attempts: int, backoff: Backoff
    ) -> None:
        self._left: Final = list(messages)
        self._ordered: Final = ordered
        self._size: Final = wave
        self._attempts: Final = attempts
        self._backoff: Final = backoff
        self._refusals: Final[dict[str, int]] = {}
        self.failures: int = 0
        """Waves in a row of which nothing was stored."""

    def wave(self) -> list[BridgeMessage]:
        """Return the messages to send now, empty when all are done."""
        if self._ordered:
            return self._left[: self._size]
        seen: set[str] = set()
        chosen: list[BridgeMessage] = []
        for message in self._left:
            if len(chosen) == self._size:
                break
            if message.key not in seen:
                chosen.append(message)
                seen.add(message.key)
        return chosen

    def record(self, wave: Sequence[BridgeMessage], results: Sequence[Result], random: Uniform) -> Step:
        """Take the results of a wave; those without a result were not tried."""
        stored = duplicates = 0
        dead: list[tuple[BridgeMessage, Failure]] = []
        done: set[str] = set()
        first: Failure | None = None
        after = 0.0
        for message, result in zip(wave, results, strict=False):
            if not isinstance(result, Failure):
                stored += result == "stored"
                duplicates += result == "duplicate"
                done.add(message.id)
                continue
            refusals = self._refusals.get(message.id, 0) + (result.kind == "refused")
            self._refusals[message.id] = refusals
            if result.kind == "rejected" or refusals >= self._attempts:
                dead.append((message, result))
                done.add(message.id)
            else:
                first = first or result
                after = max(after, result.after)
        self._left[:] = [message for message in self._left if message.id not in done]
        self.failures = 0 if done else self.failures + 1
        wait = 0.0 if first is None else max(after, delay(self._backoff, self.failures, random))
        return Step(stored, duplicates, tuple(dead), first, wait)
