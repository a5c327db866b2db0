"""What `healthy()` and `is_ready()` of a client answer.

The functions take the state of a client and return the reasons why it is not healthy or not ready, as short sentences.
"""

from collections.abc import Iterator
from typing import Final

from supawire.core.channel import CoreChannel
from supawire.errors import RealtimeError
from supawire.events import ChannelState, ConnectionState

MAX_CHANNELS_NAMED: Final = 20
"""The most channels that the answer names."""


def connection_troubles(
    state: ConnectionState,
    error: RealtimeError | None,
    *,
    down_for: float,
    silent_for: float,
    longest_silence: float,
    grace: float,
) -> Iterator[str]:
    """Yield why the connection does not work.

    Args: down_for: seconds since the connection is not open. silent_for: seconds since a heartbeat was answered on it.
        longest_silence: the seconds that a working connection has between two answers, at most. grace: the seconds that
        it may be down.
    """
    why = "" if error is None else f": {error.message}"
    if state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
        yield f"the client is {state}{why}"
    elif state in (ConnectionState.CONNECTING, ConnectionState.RETRYING):
        if down_for > grace:
            yield f"the connection is {state} and has not been open for {down_for:.1f} s{why}"
    elif state is ConnectionState.OPEN and silent_for > longest_silence:
        yield f"no heartbeat has been answered for {silent_for:.1f} s, at most {longest_silence:g} s are normal"


def channel_troubles(channels: list[CoreChannel]) -> Iterator[str]:
    """Yield why subscribed channels are not live, one sentence for a channel."""
    found = 0
    for channel in channels:
        trouble = _trouble(channel)
        found += trouble is not None
        if trouble is not None and found <= MAX_CHANNELS_NAMED:
            yield trouble
    if found > MAX_CHANNELS_NAMED:
        yield f"{found - MAX_CHANNELS_NAMED} more channels are not ready"


def _trouble(channel: CoreChannel) -> str | None:
    if not channel.wanted or channel.state is ChannelState.CLOSED:
        return None
    if channel.state is not ChannelState.JOINED:
        why = "" if channel.error is None else f": {channel.error.message}"
        return f"channel {channel.name!r} is {channel.state}{why}"
    if (error := channel.permanent_error) is not None:
        return f"channel {channel.name!r} gets no changes: {error.message}"
    return None if channel.ready else f"the server has not confirmed that channel {channel.name!r} is live"
