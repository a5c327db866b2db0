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
    action: str = ""


class ConnectionOn(Enum):
    """Events of the connection."""

    WANTED = "opened by the user, or needed by a channel"
    OPENED = "the socket is open"
    FAILED = "the attempt failed; another may succeed"
    REFUSED = "the server refuses permanently"
    STABLE = "an ok reply, and open for five seconds"
    LOST = "closed by the peer or the network, heartbeat missed, or the clock jumped"
    IDLED = "no subscribed channels for `idle_disconnect` seconds"
    DUE = "the backoff is over, or `reconnect()`"
    EXHAUSTED = "attempts or `open_timeout` exhausted"
    CLOSE = "closed by the user"
    ENDED = "the socket is closed, or the time limit has passed"


class ChannelOn(Enum):
    """Events of a channel."""

    SUBSCRIBE = "subscribed by the user"
    SEND = "the connection is open, and limits allow the join"
    OK = "the server accepted the join"
    TIMEOUT = "no answer to the join in time"
    CHANGED = "listeners or options need a new join"
    RETRY = "refused, ended or crashed for a temporary reason"
    GIVE_UP = "refused or ended permanently"
    CONNECTION_LOST = "the connection was lost"
    DUE = "the backoff is over"
    DEGRADED = "a `system` error of postgres_changes"
    RECOVERED = "the `system` ok that follows it"
    UNSUBSCRIBE = "left by the user"
    LEFT = "the leave is answered, its time limit has passed, or the socket is gone"
    LEFT_WANTED = "the same, and the user has subscribed again"
    CLOSE = "the client or the connection ended, or the channel was removed"


class MirrorOn(Enum):
    """Events of a mirror."""

    READY = "changes are live"
    LOST = "changes are not live any more"
    DUE = "a fetch is due"
    FETCHED = "the fetch has returned"
    FAILED = "the fetch raised, timed out, or returned something other than rows; or too many changes arrived meanwhile"
    SETTLED = "the changes that the fetch may include have arrived"
    UNSETTLED = "the same, but rows may have been missed since the fetch began"
    DOUBT = "a gap, an incomplete row, or `refresh()`"
    INCOMPLETE = "an incomplete row, and there is a `fetch_row`"
    COMPLETE = "no row is incomplete any more"
    CLOSE = "closed by the user, or the client ended"


_L, _C, _M = ConnectionState, ChannelState, MirrorState

CONNECTION: Final[Mapping[tuple[ConnectionState, ConnectionOn], Move[ConnectionState]]] = {
    (_L.IDLE, ConnectionOn.WANTED): Move(_L.CONNECTING, "fetch a token if a provider is set, then connect"),
    (_L.IDLE, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.CONNECTING, ConnectionOn.WANTED): Move(_L.CONNECTING),
    (_L.CONNECTING, ConnectionOn.OPENED): Move(_L.OPEN, "start the heartbeat; waiting channels join within the limits"),
    (_L.CONNECTING, ConnectionOn.FAILED): Move(
        _L.RETRYING, "wait for the backoff, or for Retry-After if that is longer"
    ),
    (_L.CONNECTING, ConnectionOn.REFUSED): Move(_L.CLOSED, "pending calls raise the refusal"),
    (_L.CONNECTING, ConnectionOn.EXHAUSTED): Move(_L.CLOSED, "the first opening ends with ConnectError"),
    (_L.CONNECTING, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.OPEN, ConnectionOn.WANTED): Move(_L.OPEN),
    (_L.OPEN, ConnectionOn.STABLE): Move(_L.OPEN, "reset the backoff"),
    (_L.OPEN, ConnectionOn.LOST): Move(_L.RETRYING, "channels wait; pending requests are resolved; a gap begins"),
    (_L.OPEN, ConnectionOn.IDLED): Move(_L.IDLE, "close the socket until a channel needs it"),
    (_L.OPEN, ConnectionOn.CLOSE): Move(_L.CLOSING, "leave, close, then abort, within a time limit"),
    (_L.RETRYING, ConnectionOn.WANTED): Move(_L.RETRYING),
    (_L.RETRYING, ConnectionOn.DUE): Move(_L.CONNECTING, "a new generation, with a fresh token first"),
    (_L.RETRYING, ConnectionOn.REFUSED): Move(_L.CLOSED, "pending calls raise the refusal"),
    (_L.RETRYING, ConnectionOn.EXHAUSTED): Move(_L.CLOSED, "pending calls and streams raise ReconnectExhaustedError"),
    (_L.RETRYING, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.CLOSING, ConnectionOn.CLOSE): Move(_L.CLOSING),
    (_L.CLOSING, ConnectionOn.LOST): Move(_L.CLOSED, "the peer closed first"),
    (_L.CLOSING, ConnectionOn.ENDED): Move(_L.CLOSED, "final"),
    (_L.CLOSED, ConnectionOn.CLOSE): Move(_L.CLOSED),
}

CHANNEL: Final[Mapping[tuple[ChannelState, ChannelOn], Move[ChannelState]]] = {
    (_C.IDLE, ChannelOn.SUBSCRIBE): Move(_C.WAITING),
    (_C.IDLE, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE),
    (_C.IDLE, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.WAITING, ChannelOn.SUBSCRIBE): Move(_C.WAITING),
    (_C.WAITING, ChannelOn.SEND): Move(
        _C.JOINING, "send phx_join with the current listeners, token and replay position"
    ),
    (_C.WAITING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.WAITING, ChannelOn.GIVE_UP): Move(_C.FAILED, "pending calls raise the reason"),
    (_C.WAITING, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE, "at once"),
    (_C.WAITING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.JOINING, ChannelOn.SUBSCRIBE): Move(_C.JOINING),
    (_C.JOINING, ChannelOn.OK): Move(_C.JOINED, "replace the ids, track presence again, send queued messages"),
    (_C.JOINING, ChannelOn.TIMEOUT): Move(_C.RETRYING, "send phx_leave with the join_ref that timed out"),
    (_C.JOINING, ChannelOn.RETRY): Move(_C.RETRYING, "wait as the table of errors says"),
    (_C.JOINING, ChannelOn.GIVE_UP): Move(_C.FAILED, "pending calls raise the reason"),
    (_C.JOINING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.JOINING, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING, "within a time limit"),
    (_C.JOINING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.JOINED, ChannelOn.SUBSCRIBE): Move(_C.JOINED),
    (_C.JOINED, ChannelOn.CHANGED): Move(_C.REJOINING, "the old join is valid until the ok; a Gap reports it"),
    (_C.JOINED, ChannelOn.RETRY): Move(_C.RETRYING, "a gap begins"),
    (_C.JOINED, ChannelOn.GIVE_UP): Move(_C.FAILED, "a gap begins"),
    (_C.JOINED, ChannelOn.CONNECTION_LOST): Move(_C.WAITING, "a gap begins"),
    (_C.JOINED, ChannelOn.DEGRADED): Move(_C.JOINED, "not ready until the server recovers"),
    (_C.JOINED, ChannelOn.RECOVERED): Move(_C.JOINED, "ready"),
    (_C.JOINED, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING, "within a time limit"),
    (_C.JOINED, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.REJOINING, ChannelOn.SUBSCRIBE): Move(_C.REJOINING),
    (_C.REJOINING, ChannelOn.OK): Move(_C.JOINED, "replace the ids, track presence again, send queued messages"),
    (_C.REJOINING, ChannelOn.TIMEOUT): Move(_C.RETRYING, "send phx_leave with the join_ref that timed out"),
    (_C.REJOINING, ChannelOn.RETRY): Move(_C.RETRYING, "wait as the table of errors says"),
    (_C.REJOINING, ChannelOn.GIVE_UP): Move(_C.FAILED, "pending calls raise the reason"),
    (_C.REJOINING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.REJOINING, ChannelOn.DEGRADED): Move(_C.REJOINING),
    (_C.REJOINING, ChannelOn.RECOVERED): Move(_C.REJOINING),
    (_C.REJOINING, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING, "within a time limit"),
    (_C.REJOINING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.RETRYING, ChannelOn.SUBSCRIBE): Move(_C.RETRYING),
    (_C.RETRYING, ChannelOn.DUE): Move(_C.WAITING),
    (_C.RETRYING, ChannelOn.GIVE_UP): Move(_C.FAILED, "attempts exhausted"),
    (_C.RETRYING, ChannelOn.CONNECTION_LOST): Move(_C.WAITING),
    (_C.RETRYING, ChannelOn.UNSUBSCRIBE): Move(_C.IDLE, "at once"),
    (_C.RETRYING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.LEAVING, ChannelOn.SUBSCRIBE): Move(_C.LEAVING, "join again after the leave"),
    (_C.LEAVING, ChannelOn.UNSUBSCRIBE): Move(_C.LEAVING),
    (_C.LEAVING, ChannelOn.LEFT): Move(_C.IDLE),
    (_C.LEAVING, ChannelOn.LEFT_WANTED): Move(_C.WAITING),
    (_C.LEAVING, ChannelOn.CLOSE): Move(_C.CLOSED),
    (_C.FAILED, ChannelOn.SUBSCRIBE): Move(_C.WAITING, "also when the token has changed and it is still subscribed"),
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
    (_M.WAITING, MirrorOn.DUE): Move(_M.FETCHING, "keep changes from now on"),
    (_M.WAITING, MirrorOn.DOUBT): Move(_M.WAITING, "the next fetch includes it"),
    (_M.WAITING, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.FETCHING, MirrorOn.READY): Move(_M.FETCHING),
    (_M.FETCHING, MirrorOn.LOST): Move(_M.JOINING, "abandon the fetch"),
    (_M.FETCHING, MirrorOn.FETCHED): Move(_M.SETTLING, "a new copy: the fetched rows with the kept changes applied"),
    (_M.FETCHING, MirrorOn.FAILED): Move(_M.WAITING, "wait for the backoff"),
    (_M.FETCHING, MirrorOn.DOUBT): Move(_M.FETCHING, "fetch again afterwards: this fetch may have been too early"),
    (_M.FETCHING, MirrorOn.CLOSE): Move(_M.CLOSED, "abandon the fetch"),
    (_M.SETTLING, MirrorOn.READY): Move(_M.SETTLING),
    (_M.SETTLING, MirrorOn.LOST): Move(_M.JOINING, "drop the new copy"),
    (_M.SETTLING, MirrorOn.SETTLED): Move(_M.LIVE, "the new copy replaces the old one"),
    (_M.SETTLING, MirrorOn.UNSETTLED): Move(_M.WAITING, "the same, and fetch again"),
    (_M.SETTLING, MirrorOn.DOUBT): Move(_M.SETTLING, "fetch again afterwards"),
    (_M.SETTLING, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.LIVE, MirrorOn.READY): Move(_M.LIVE),
    (_M.LIVE, MirrorOn.LOST): Move(_M.JOINING, "keep the copy"),
    (_M.LIVE, MirrorOn.DOUBT): Move(_M.WAITING, "fetch; changes are applied to the copy meanwhile"),
    (_M.LIVE, MirrorOn.INCOMPLETE): Move(_M.REFETCHING, "fetch this row; all other rows stay live"),
    (_M.LIVE, MirrorOn.CLOSE): Move(_M.CLOSED),
    (_M.REFETCHING, MirrorOn.INCOMPLETE): Move(_M.REFETCHING),
    (_M.REFETCHING, MirrorOn.READY): Move(_M.REFETCHING),
    (_M.REFETCHING, MirrorOn.LOST): Move(_M.JOINING, "abandon the fetches of rows"),
    (_M.REFETCHING, MirrorOn.DOUBT): Move(_M.WAITING, "abandon the fetches of rows and fetch all"),
    (_M.REFETCHING, MirrorOn.COMPLETE): Move(_M.LIVE),
    (_M.REFETCHING, MirrorOn.CLOSE): Move(_M.CLOSED, "abandon the fetches of rows"),
    (_M.CLOSED, MirrorOn.CLOSE): Move(_M.CLOSED),
}
