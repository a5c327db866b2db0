"""State tables of the connection, the channels and the mirrors. The tables are the specification.

Every transition is looked up here, and the state is assigned on the line after the lookup, once each in `connection`,
`membership` and `mirror`. Cells have no guards: what decides between two transitions is decided before, so that
*failed* and *refused*, or *retry* and *give up*, are different events. A pair without a cell is impossible: it raises
`LocalProtocolError` in development and tests, and is reported and ignored in production.

`docs/states.md` prints these tables, and a test checks that every pair is either a cell or listed as impossible, so
that no new state or event can be forgotten.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from supawire._mirror_events import MirrorState
from supawire.events import ChannelState, ConnectionState

S = TypeVar("S", ConnectionState, ChannelState, MirrorState)


class Move(NamedTuple, Generic[S]):
    """The next state, and a description of what is done on the way."""

    next: S
    then: str = ""


class ConnectionOn(Enum):
    """Events of the connection."""

    WANTED = "opened by the user, or a channel wants in"
    OPENED = "the socket is open"
    FAILED = "the attempt failed, and another may succeed"
    REFUSED = "the server will never let us in"
    PROVEN = "an ok reply, and five seconds up"
    LOST = "closed by anyone but us, heartbeat missed, or the clock jumped"
    IDLED = "no channels for `idle_disconnect` seconds"
    DUE = "the backoff is over, or `reconnect()`"
    EXHAUSTED = "attempts or `open_timeout` used up"
    CLOSE = "closed by the user"
    ENDED = "the socket is closed, or the bound for it has passed"


class ChannelOn(Enum):
    """Events of a channel."""

    SUBSCRIBE = "the user wants in"
    GO = "the link is open and pacing allows"
    OK = "the server accepted the join"
    TIMEOUT = "no answer to the join in time"
    CHANGED = "listeners or options need a new join"
    RETRY = "refused, ended or crashed for a reason that may pass"
    GIVE_UP = "refused or ended for good"
    CONNECTION_LOST = "the socket is gone"
    DUE = "the backoff is over"
    DEGRADED = "a `system` error of postgres_changes"
    RECOVERED = "its ok"
    UNSUBSCRIBE = "the user wants out"
    LEFT = "the leave is answered, its bound has passed, or the socket is gone"
    LEFT_WANTED = "the same, and the user wants in again"
    CLOSE = "the client, the link or the object ended"


class MirrorOn(Enum):
    """Events of a mirror."""

    READY = "changes are live"
    LOST = "changes are not live any more"
    DUE = "the moment for a fetch has come"
    FETCHED = "the fetch has answered"
    FAILED = "the fetch raised, took too long, or gave what are no rows; or too many changes came meanwhile"
    SETTLED = "the changes that the fetch may have seen have come"
    UNSETTLED = "the same, and since the fetch began something is in doubt"
    DOUBT = "a gap, a row that did not come whole, or `refresh()`"
    CLOSE = "closed by the user, or the client ended"


_L, _C, _M = ConnectionState, ChannelState, MirrorState

LINK: Final[Mapping[tuple[ConnectionState, ConnectionOn], Move[ConnectionState]]] = {
    (_L.IDLE, ConnectionOn.WANTED): Move(_L.CONNECTING, "fetch a token if a provider is set, then connect"),
    (_L.IDLE, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.CONNECTING, ConnectionOn.WANTED): Move(_L.CONNECTING),
    (_L.CONNECTING, ConnectionOn.OPENED): Move(_L.OPEN, "start the heartbeat; waiting channels join, paced"),
    (_L.CONNECTING, ConnectionOn.FAILED): Move(_L.RETRYING, "wait for the backoff, or for Retry-After if longer"),
    (_L.CONNECTING, ConnectionOn.REFUSED): Move(_L.CLOSED, "every waiter gets the refusal"),
    (_L.CONNECTING, ConnectionOn.EXHAUSTED): Move(_L.CLOSED, "the first opening ends with ConnectError"),
    (_L.CONNECTING, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.OPEN, ConnectionOn.WANTED): Move(_L.OPEN),
    (_L.OPEN, ConnectionOn.PROVEN): Move(_L.OPEN, "only now the backoff starts anew"),
    (_L.OPEN, ConnectionOn.LOST): Move(_L.RETRYING, "channels wait; pending pushes settle; a gap opens"),
    (_L.OPEN, ConnectionOn.IDLED): Move(_L.IDLE, "close the socket until a channel wants in"),
    (_L.OPEN, ConnectionOn.CLOSE): Move(_L.CLOSING, "leave, close, then abort; bounded"),
    (_L.RETRYING, ConnectionOn.WANTED): Move(_L.RETRYING),
    (_L.RETRYING, ConnectionOn.DUE): Move(_L.CONNECTING, "a new generation, with a fresh token first"),
    (_L.RETRYING, ConnectionOn.REFUSED): Move(_L.CLOSED, "every waiter gets the refusal"),
    (_L.RETRYING, ConnectionOn.EXHAUSTED): Move(_L.CLOSED, "every waiter and iterator gets ReconnectExhaustedError"),
    (_L.RETRYING, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.CLOSING, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.CLOSING, ConnectionOn.LOST): Move(_L.CLOSED, "the peer was faster"),
    (_L.CLOSING, ConnectionOn.ENDED): Move(_L.CLOSED, "final"),
    (_L.CLOSED, ConnectionOn.CLOSE): Move(_L.CLOSED),
}

CHANNEL: Final[Mapping[tuple[ChannelState, ChannelOn], Move[ChannelState]]] = {
    (_C.IDLE, ChannelOn.SUBSCRIBE): Move(_C.WAITING),
    (_C.IDLE, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE),
    (_C.IDLE, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.WAITING, ChannelOn.SUBSCRIBE): Move(_C.WAITING),
    (_C.WAITING, ChannelOn.GO): Move(_C.JOINING, "join with the live listeners, token and replay cursor"),
    (_C.WAITING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.WAITING, ChannelOn.GIVE_UP): Move(_C.FAILED, "waiters get the reason"),
    (_C.WAITING, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE, "at once"),
    (_C.WAITING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.JOINING, ChannelOn.SUBSCRIBE): Move(_C.JOINING),
    (_C.JOINING, ChannelOn.OK): Move(_C.JOINED, "ids replaced, presence tracked again, queued sends flushed"),
    (_C.JOINING, ChannelOn.TIMEOUT): Move(_C.RETRYING, "phx_leave with the join_ref that timed out"),
    (_C.JOINING, ChannelOn.RETRY): Move(_C.RETRYING, "wait as the error table says"),
    (_C.JOINING, ChannelOn.GIVE_UP): Move(_C.FAILED, "waiters get the reason"),
    (_C.JOINING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.JOINING, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING, "bounded"),
    (_C.JOINING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.JOINED, ChannelOn.SUBSCRIBE): Move(_C.JOINED),
    (_C.JOINED, ChannelOn.CHANGED): Move(_C.REJOINING, "the old join counts until the ok; a Gap says so"),
    (_C.JOINED, ChannelOn.RETRY): Move(_C.RETRYING, "a gap opens"),
    (_C.JOINED, ChannelOn.GIVE_UP): Move(_C.FAILED, "a gap opens"),
    (_C.JOINED, ChannelOn.CONNECTION_LOST): Move(_C.WAITING, "a gap opens"),
    (_C.JOINED, ChannelOn.DEGRADED): Move(_C.JOINED, "not ready; the server recovers by itself"),
    (_C.JOINED, ChannelOn.RECOVERED): Move(_C.JOINED, "ready"),
    (_C.JOINED, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING, "bounded"),
    (_C.JOINED, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.REJOINING, ChannelOn.SUBSCRIBE): Move(_C.REJOINING),
    (_C.REJOINING, ChannelOn.OK): Move(_C.JOINED, "ids replaced, presence tracked again, queued sends flushed"),
    (_C.REJOINING, ChannelOn.TIMEOUT): Move(_C.RETRYING, "phx_leave with the join_ref that timed out"),
    (_C.REJOINING, ChannelOn.RETRY): Move(_C.RETRYING, "wait as the error table says"),
    (_C.REJOINING, ChannelOn.GIVE_UP): Move(_C.FAILED, "waiters get the reason"),
    (_C.REJOINING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.REJOINING, ChannelOn.DEGRADED): Move(_C.REJOINING),
    (_C.REJOINING, ChannelOn.RECOVERED): Move(_C.REJOINING),
    (_C.REJOINING, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING, "bounded"),
    (_C.REJOINING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.RETRYING, ChannelOn.SUBSCRIBE): Move(_C.RETRYING),
    (_C.RETRYING, ChannelOn.DUE): Move(_C.WAITING),
    (_C.RETRYING, ChannelOn.GIVE_UP): Move(_C.FAILED, "attempts used up"),
    (_C.RETRYING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.RETRYING, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE, "at once"),
    (_C.RETRYING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.LEAVING, ChannelOn.SUBSCRIBE): Move(_C.LEAVING, "joins again when left"),
    (_C.LEAVING, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING),
    (_C.LEAVING, ChannelOn.LEFT): Move(_C.IDLE),
    (_C.LEAVING, ChannelOn.LEFT_WANTED): Move(_C.WAITING),
    (_C.LEAVING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.FAILED, ChannelOn.SUBSCRIBE): Move(_C.WAITING, "also when the token changed and it is still wanted"),
    (_C.FAILED, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE, "at once"),
    (_C.FAILED, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.CLOSED, ChannelOn.CLOSE): Move(_C.CLOSED),
}

MIRROR: Final[Mapping[tuple[MirrorState, MirrorOn], Move[MirrorState]]] = {
    (_M.JOINING, MirrorOn.READY): Move(_M.WAITING, "fetch, now or when the pause or backoff is over"),
    (_M.JOINING, MirrorOn.LOST): Move(_M.JOINING),
    (_M.JOINING, MirrorOn.DOUBT): Move(_M.JOINING),
    (_M.JOINING, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.WAITING, MirrorOn.READY): Move(_M.WAITING),
    (_M.WAITING, MirrorOn.LOST): Move(_M.JOINING),
    (_M.WAITING, MirrorOn.DUE): Move(_M.FETCHING, "from here on changes are kept"),
    (_M.WAITING, MirrorOn.DOUBT): Move(_M.WAITING, "the fetch that comes will know"),
    (_M.WAITING, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.FETCHING, MirrorOn.READY): Move(_M.FETCHING),
    (_M.FETCHING, MirrorOn.LOST): Move(_M.JOINING, "the fetch is given up"),
    (_M.FETCHING, MirrorOn.FETCHED): Move(_M.SETTLING, "a new copy: what was fetched, and over it what was kept"),
    (_M.FETCHING, MirrorOn.FAILED): Move(_M.WAITING, "wait for the backoff"),
    (_M.FETCHING, MirrorOn.DOUBT): Move(_M.FETCHING, "noted: this fetch may have been too early"),
    (_M.FETCHING, MirrorOn.CLOSE): Move(_M.CLOSED, "the fetch is given up"),
    (_M.SETTLING, MirrorOn.READY): Move(_M.SETTLING),
    (_M.SETTLING, MirrorOn.LOST): Move(_M.JOINING, "the new copy is dropped"),
    (_M.SETTLING, MirrorOn.SETTLED): Move(_M.LIVE, "the new copy takes the place of the old one"),
    (_M.SETTLING, MirrorOn.UNSETTLED): Move(_M.WAITING, "the same, and fetch again"),
    (_M.SETTLING, MirrorOn.DOUBT): Move(_M.SETTLING, "noted"),
    (_M.SETTLING, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.LIVE, MirrorOn.READY): Move(_M.LIVE),
    (_M.LIVE, MirrorOn.LOST): Move(_M.JOINING, "the copy stays as it is"),
    (_M.LIVE, MirrorOn.DOUBT): Move(_M.WAITING, "fetch; the copy follows changes meanwhile"),
    (_M.LIVE, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.CLOSED, MirrorOn.CLOSE): Move(_M.CLOSED),
}
