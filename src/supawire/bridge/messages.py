"""The messages of a bridge, and what brokers and checkpoints do with them. All are values or protocols, without I/O."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from supawire.errors import BridgeError


class BridgeMessage(Struct, frozen=True):
    """A message for a broker.

    Attributes: id: the same each time the message is sent, for the broker's de-duplication. subject: what it is about,
    such as `("changes", "public", "orders")` or `("broadcasts", "room:1")`. key: messages with the same key keep their
    order. body: JSON in UTF-8.
    """

    id: str
    subject: tuple[str, ...]
    key: str
    body: bytes


class Draft(Struct, frozen=True):
    """A message that has no id yet, with what the checkpoint records about the row. Exactly one of both may be missing.

    Attributes: body: None if nothing is sent and only the row is recorded. id: instead of a number that the checkpoint
    assigns. row: the key of the row as JSON, None if it is not about a row. digest: of the new row, None if the row
    is gone.
    """

    subject: tuple[str, ...]
    key: str
    body: bytes | None
    id: str | None = None
    row: bytes | None = None
    digest: bytes | None = None


class Failure(Struct, frozen=True):
    """Why a broker did not store a message.

    Attributes: reason: for people. kind: "away": the broker cannot be used now, and this message is not the reason.
    "refused": it did not take this message, and may take it later. "rejected": it will never take it. after: seconds
    to wait, as far as the broker says.
    """

    reason: str
    kind: Literal["away", "refused", "rejected"] = "away"
    after: float = 0.0


Result: TypeAlias = Literal["stored", "duplicate"] | Failure
"""How the broker answered: stored, already there (by its id), or not stored."""


class Broker(Protocol):
    """Where a bridge sends its messages: `RedisStreams`, `JetStream`, `Kafka`, `Webhook`, or one of yours.

    Attributes: name: for logs, without credentials. ordered: whether messages of one call are stored in order, and none
    after one that failed. wave: the most messages of one call.
    """

    name: str
    ordered: bool
    wave: int

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        """Send messages, wait for the confirmation, and return a result for each, or for the first ones.

        It connects if necessary. Exceptions end the bridge; an unreachable broker is a `Failure`.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class SourceState(Struct):
    """What a checkpoint knows about a source.

    Attributes: rows: the digest of each row by its key, as last recorded. pending: messages that may not be confirmed.
    """

    rows: dict[bytes, bytes]
    pending: list[BridgeMessage]


class LeaderLostError(BridgeError):
    """This process is not the leader any more; another one may be."""


class Checkpoint(Protocol):
    """What a bridge has handed on, and which process is its leader: `SqliteCheckpoint`, `PostgresCheckpoint`.

    The methods block, and are called on one thread. Those after `acquire` raise `LeaderLostError` when another process
    has become the leader since, and then change nothing.
    """

    def acquire(self, bridge: str, /) -> bool:
        """Become the leader of the bridge with this name; return False while another process is."""
        ...

    def check(self) -> None:
        """Return if this process is the leader."""
        ...

    def load(self, source: str, /) -> SourceState:
        """Return what is known about a source."""
        ...

    def record(self, source: str, drafts: Sequence[Draft], /) -> list[BridgeMessage]:
        """Record messages before they are sent, with new ids, and the rows that they are about, in one transaction."""
        ...

    def confirm(self, source: str, ids: Sequence[str], /) -> None:
        """Forget messages that the broker has confirmed or that have failed for ever."""
        ...

    def load_cursor(self, source: str, /) -> str | None:
        """Return the saved cursor of a source, None if there is none."""
        ...

    def save_cursor(self, source: str, cursor: str, /) -> None:
        """Save the cursor of a source."""
        ...

    def release(self) -> None:
        """Stop being the leader, and close the connection or file."""
        ...


SUBJECT_SEPARATOR: Final = "/"


def subject_text(message: BridgeMessage) -> str:
    """Return the subject as one text, as fields and headers have it: `changes/public/orders`."""
    return SUBJECT_SEPARATOR.join(message.subject)
