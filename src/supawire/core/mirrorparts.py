"""What a mirror is to be, and what it orders: frozen data."""

from dataclasses import dataclass
from typing import Any, Protocol

from supawire._mirrored import MirrorEvent
from supawire.errors import RealtimeError
from supawire.options import Backoff
from supawire.types import Change


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """What is mirrored, and how.

    filter: None for all rows. narrow: ask the server for what the filter fits, and for nothing else. plain: rows as
    plain JSON. settle: seconds. backoff: between fetches that fail. buffer: changes that are kept while one runs.
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


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the rows; the answer comes back with this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """The fetch of this generation is not wanted any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class Emit:
    """The copy differs by this, and by nothing else since the last one."""

    event: MirrorEvent[Any]


@dataclass(frozen=True, slots=True)
class Complain:
    """An error that nobody waits for."""

    error: RealtimeError


MirrorEffect = Fetch | Abandon | Emit | Complain


class Take(Protocol):
    """Who takes the changes of a mirror's listeners."""

    def __call__(self, change: Change[dict[str, Any]], *, inside: bool) -> None: ...
