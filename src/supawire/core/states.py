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


class Transition(NamedTuple, Generic[S]):
    """The next state, and a description of what is done on the way."""

    next: S
    action: str = ""


class ConnectionTrigger(Enum):
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


class ChannelTrigger(Enum):
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


class MirrorTrigger(Enum):
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
_LT, _CT, _MT = ConnectionTrigger, ChannelTrigger, MirrorTrigger

CONNECTION: Final[Mapping[tuple[ConnectionState, ConnectionTrigger], Transition[ConnectionState]]] = {
    (_L.IDLE, _LT.WANTED): Transition(_L.CONNECTING, "fetch a token if a provider is set, then connect"),
    (_L.IDLE, _LT.CLOSE): Transition(_L.CLOSING),
    (_L.CONNECTING, _LT.WANTED): Transition(_L.CONNECTING),
    (_L.CONNECTING, _LT.OPENED): Transition(_L.OPEN, "start the heartbeat; waiting channels join within the limits"),
    (_L.CONNECTING, _LT.FAILED): Transition(_L.RETRYING, "wait for the backoff, or for Retry-After if that is longer"),
    (_L.CONNECTING, _LT.REFUSED): Transition(_L.CLOSED, "pending calls raise the refusal"),
    (_L.CONNECTING, _LT.EXHAUSTED): Transition(_L.CLOSED, "the first opening ends with ConnectError"),
    (_L.CONNECTING, _LT.CLOSE): Transition(_L.CLOSING),
    (_L.OPEN, _LT.WANTED): Transition(_L.OPEN),
    (_L.OPEN, _LT.STABLE): Transition(_L.OPEN, "reset the backoff"),
    (_L.OPEN, _LT.LOST): Transition(_L.RETRYING, "channels wait; pending requests are resolved; a gap begins"),
    (_L.OPEN, _LT.IDLED): Transition(_L.IDLE, "close the socket until a channel needs it"),
    (_L.OPEN, _LT.CLOSE): Transition(_L.CLOSING, "leave, close, then abort, within a time limit"),
    (_L.RETRYING, _LT.WANTED): Transition(_L.RETRYING),
    (_L.RETRYING, _LT.DUE): Transition(_L.CONNECTING, "a new generation, with a fresh token first"),
    (_L.RETRYING, _LT.REFUSED): Transition(_L.CLOSED, "pending calls raise the refusal"),
    (_L.RETRYING, _LT.EXHAUSTED): Transition(_L.CLOSED, "pending calls and streams raise ReconnectExhaustedError"),
    (_L.RETRYING, _LT.CLOSE): Transition(_L.CLOSING),
    (_L.CLOSING, _LT.CLOSE): Transition(_L.CLOSING),
    (_L.CLOSING, _LT.LOST): Transition(_L.CLOSED, "the peer closed first"),
    (_L.CLOSING, _LT.ENDED): Transition(_L.CLOSED, "final"),
    (_L.CLOSED, _LT.CLOSE): Transition(_L.CLOSED),
}

CHANNEL: Final[Mapping[tuple[ChannelState, ChannelTrigger], Transition[ChannelState]]] = {
    (_C.IDLE, _CT.SUBSCRIBE): Transition(_C.WAITING),
    (_C.IDLE, _CT.UNSUBSCRIBE): Transition(_C.IDLE),
    (_C.IDLE, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.WAITING, _CT.SUBSCRIBE): Transition(_C.WAITING),
    (_C.WAITING, _CT.SEND): Transition(
        _C.JOINING, "send phx_join with the current listeners, token and replay position"
    ),
    (_C.WAITING, _CT.CONNECTION_LOST): Transition(_C.WAITING),
    (_C.WAITING, _CT.GIVE_UP): Transition(_C.FAILED, "pending calls raise the reason"),
    (_C.WAITING, _CT.UNSUBSCRIBE): Transition(_C.IDLE, "at once"),
    (_C.WAITING, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.JOINING, _CT.SUBSCRIBE): Transition(_C.JOINING),
    (_C.JOINING, _CT.OK): Transition(_C.JOINED, "replace the ids, track presence again, send queued messages"),
    (_C.JOINING, _CT.TIMEOUT): Transition(_C.RETRYING, "send phx_leave with the join_ref that timed out"),
    (_C.JOINING, _CT.RETRY): Transition(_C.RETRYING, "wait as the table of errors says"),
    (_C.JOINING, _CT.GIVE_UP): Transition(_C.FAILED, "pending calls raise the reason"),
    (_C.JOINING, _CT.CONNECTION_LOST): Transition(_C.WAITING),
    (_C.JOINING, _CT.UNSUBSCRIBE): Transition(_C.LEAVING, "within a time limit"),
    (_C.JOINING, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.JOINED, _CT.SUBSCRIBE): Transition(_C.JOINED),
    (_C.JOINED, _CT.CHANGED): Transition(_C.REJOINING, "the old join is valid until the ok; a Gap reports it"),
    (_C.JOINED, _CT.RETRY): Transition(_C.RETRYING, "a gap begins"),
    (_C.JOINED, _CT.GIVE_UP): Transition(_C.FAILED, "a gap begins"),
    (_C.JOINED, _CT.CONNECTION_LOST): Transition(_C.WAITING, "a gap begins"),
    (_C.JOINED, _CT.DEGRADED): Transition(_C.JOINED, "not ready until the server recovers"),
    (_C.JOINED, _CT.RECOVERED): Transition(_C.JOINED, "ready"),
    (_C.JOINED, _CT.UNSUBSCRIBE): Transition(_C.LEAVING, "within a time limit"),
    (_C.JOINED, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.REJOINING, _CT.SUBSCRIBE): Transition(_C.REJOINING),
    (_C.REJOINING, _CT.OK): Transition(_C.JOINED, "replace the ids, track presence again, send queued messages"),
    (_C.REJOINING, _CT.TIMEOUT): Transition(_C.RETRYING, "send phx_leave with the join_ref that timed out"),
    (_C.REJOINING, _CT.RETRY): Transition(_C.RETRYING, "wait as the table of errors says"),
    (_C.REJOINING, _CT.GIVE_UP): Transition(_C.FAILED, "pending calls raise the reason"),
    (_C.REJOINING, _CT.CONNECTION_LOST): Transition(_C.WAITING),
    (_C.REJOINING, _CT.DEGRADED): Transition(_C.REJOINING),
    (_C.REJOINING, _CT.RECOVERED): Transition(_C.REJOINING),
    (_C.REJOINING, _CT.UNSUBSCRIBE): Transition(_C.LEAVING, "within a time limit"),
    (_C.REJOINING, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.RETRYING, _CT.SUBSCRIBE): Transition(_C.RETRYING),
    (_C.RETRYING, _CT.DUE): Transition(_C.WAITING),
    (_C.RETRYING, _CT.GIVE_UP): Transition(_C.FAILED, "attempts exhausted"),
    (_C.RETRYING, _CT.CONNECTION_LOST): Transition(_C.WAITING),
    (_C.RETRYING, _CT.UNSUBSCRIBE): Transition(_C.IDLE, "at once"),
    (_C.RETRYING, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.LEAVING, _CT.SUBSCRIBE): Transition(_C.LEAVING, "join again after the leave"),
    (_C.LEAVING, _CT.UNSUBSCRIBE): Transition(_C.LEAVING),
    (_C.LEAVING, _CT.LEFT): Transition(_C.IDLE),
    (_C.LEAVING, _CT.LEFT_WANTED): Transition(_C.WAITING),
    (_C.LEAVING, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.FAILED, _CT.SUBSCRIBE): Transition(_C.WAITING, "also when the token has changed and it is still subscribed"),
    (_C.FAILED, _CT.UNSUBSCRIBE): Transition(_C.IDLE, "at once"),
    (_C.FAILED, _CT.CLOSE): Transition(_C.CLOSED),
    (_C.CLOSED, _CT.CLOSE): Transition(_C.CLOSED),
}

MIRROR: Final[Mapping[tuple[MirrorState, MirrorTrigger], Transition[MirrorState]]] = {
    (_M.JOINING, _MT.READY): Transition(_M.WAITING, "fetch, now or when the pause or backoff is over"),
    (_M.JOINING, _MT.LOST): Transition(_M.JOINING),
    (_M.JOINING, _MT.DOUBT): Transition(_M.JOINING),
    (_M.JOINING, _MT.CLOSE): Transition(_M.CLOSED),
    (_M.WAITING, _MT.READY): Transition(_M.WAITING),
    (_M.WAITING, _MT.LOST): Transition(_M.JOINING),
    (_M.WAITING, _MT.DUE): Transition(_M.FETCHING, "keep changes from now on"),
    (_M.WAITING, _MT.DOUBT): Transition(_M.WAITING, "the next fetch includes it"),
    (_M.WAITING, _MT.CLOSE): Transition(_M.CLOSED),
    (_M.FETCHING, _MT.READY): Transition(_M.FETCHING),
    (_M.FETCHING, _MT.LOST): Transition(_M.JOINING, "abandon the fetch"),
    (_M.FETCHING, _MT.FETCHED): Transition(_M.SETTLING, "a new copy: the fetched rows with the kept changes applied"),
    (_M.FETCHING, _MT.FAILED): Transition(_M.WAITING, "wait for the backoff"),
    (_M.FETCHING, _MT.DOUBT): Transition(_M.FETCHING, "fetch again afterwards: this fetch may have been too early"),
    (_M.FETCHING, _MT.CLOSE): Transition(_M.CLOSED, "abandon the fetch"),
    (_M.SETTLING, _MT.READY): Transition(_M.SETTLING),
    (_M.SETTLING, _MT.LOST): Transition(_M.JOINING, "drop the new copy"),
    (_M.SETTLING, _MT.SETTLED): Transition(_M.LIVE, "the new copy replaces the old one"),
    (_M.SETTLING, _MT.UNSETTLED): Transition(_M.WAITING, "the same, and fetch again"),
    (_M.SETTLING, _MT.DOUBT): Transition(_M.SETTLING, "fetch again afterwards"),
    (_M.SETTLING, _MT.CLOSE): Transition(_M.CLOSED),
    (_M.LIVE, _MT.READY): Transition(_M.LIVE),
    (_M.LIVE, _MT.LOST): Transition(_M.JOINING, "keep the copy"),
    (_M.LIVE, _MT.DOUBT): Transition(_M.WAITING, "fetch; changes are applied to the copy meanwhile"),
    (_M.LIVE, _MT.INCOMPLETE): Transition(_M.REFETCHING, "fetch this row; all other rows stay live"),
    (_M.LIVE, _MT.CLOSE): Transition(_M.CLOSED),
    (_M.REFETCHING, _MT.INCOMPLETE): Transition(_M.REFETCHING),
    (_M.REFETCHING, _MT.READY): Transition(_M.REFETCHING),
    (_M.REFETCHING, _MT.LOST): Transition(_M.JOINING, "abandon the fetches of rows"),
    (_M.REFETCHING, _MT.DOUBT): Transition(_M.WAITING, "abandon the fetches of rows and fetch all"),
    (_M.REFETCHING, _MT.COMPLETE): Transition(_M.LIVE),
    (_M.REFETCHING, _MT.CLOSE): Transition(_M.CLOSED, "abandon the fetches of rows"),
    (_M.CLOSED, _MT.CLOSE): Transition(_M.CLOSED),
}
