"""What a mirror is to be, and what it orders: frozen data."""

from typing import Any, Protocol

from msgspec import Struct

from supawire._mirrored import MirrorEvent
from supawire.errors import RealtimeError
from supawire.options import Backoff
from supawire.types import Change


class MirrorSettings(Struct, frozen=True):
    """What is mirrored, and how.

    filter: None for all rows. narrow: ask the server for what the filter fits, and for nothing else. plain: rows as
    plain JSON. settle: seconds. backoff: between fetches that fail. buffer: changes that are kept while one runs.
    refresh_every: seconds between comparisons of a live copy with the table, None for none.
    """

    table: str
    key: tuple[str, ...]
    schema: str = "public"
    filter: str | None = None
    judged: frozenset[str] = frozenset()
    select: tuple[str, ...] | None = None
    narrow: bool = False
    plain: bool = False
    modelled: bool = False
    settle: float = 1.0
    backoff: Backoff = Backoff(initial=1.0)
    buffer: int = 10_000
    refresh_every: float | None = None


class Fetch(Struct, frozen=True):
    """Fetch the rows; the answer comes back with this generation."""

    generation: int


class Abandon(Struct, frozen=True):
    """The fetch of this generation is not wanted any more."""

    generation: int


class Emit(Struct, frozen=True):
    """The copy differs by this, and by nothing else since the last one."""

    event: MirrorEvent[Any]


class Complain(Struct, frozen=True):
    """An error that nobody waits for."""

    error: RealtimeError


MirrorEffect = Fetch | Abandon | Emit | Complain


class Take(Protocol):
    """Who takes the changes of a mirror's listeners."""

    def __call__(self, change: Change[dict[str, Any]], *, inside: bool) -> None: ...
