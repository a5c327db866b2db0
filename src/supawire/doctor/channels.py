"""Collect facts about channels, with clients of their own: joins, presence, broadcasts, HTTP publish, changes.

Messages and presence use a topic with a random name, which nobody else has joined. The topic of the user is only
joined: nothing is sent to it and no presence is tracked on it.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable
from typing import Any, Final

from msgspec.structs import replace

from supawire.aio.channel import AsyncChannel
from supawire.aio.client import AsyncClient
from supawire.aio.connect import connect_async
from supawire.aio.stream import AsyncStream
from supawire.doctor.facts import ActionFacts
from supawire.doctor.network import CLOSE_TIMEOUT, Clock, Network, within
from supawire.errors import OperationTimeout, RealtimeError
from supawire.options import Backoff
from supawire.selectors import broadcast, presence
from supawire.transport.websocket import WebSocketTransport

RESERVE: Final = 0.3
"""Seconds at the end of the time limit that are kept for closing."""
EVENT: Final = "supawire-doctor"
ONE_ATTEMPT: Final = Backoff(initial=0, max_attempts=1)


class ChannelFacts:
    """What was seen so far; attributes stay None for what was not reached."""

    def __init__(self) -> None:
        self.public_join: ActionFacts | None = None
        self.presence: ActionFacts | None = None
        self.broadcast: ActionFacts | None = None
        self.publish: ActionFacts | None = None
        self.private_join: ActionFacts | None = None
        self.changes: ActionFacts | None = None


async def examine(network: Network, url: str, *, token_usable: bool) -> ChannelFacts:
    """Try everything at the same time, each on a connection of its own: a slow join would delay the others.

    Without a usable token public channels are tried with the key alone, and topic and table of the user are not tried.
    """
    facts, target = ChannelFacts(), network.target
    if not token_usable:
        network = replace(network, token=None)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_public(network, url, facts))
        if target.topic is not None and token_usable:
            tasks.create_task(_private(network, url, facts, target.topic))
        if target.table is not None and target.filter_error is None and token_usable:
            tasks.create_task(_changes(network, url, facts))
    return facts


def _client(network: Network, url: str) -> Any:
    """Return an opener of a client that tries once, and drops errors that the calls raise too."""
    limit = _left(network)
    return connect_async(
        url,
        network.endpoint.key,
        token=network.token,
        timeout=limit,
        open_timeout=limit,
        backoff=ONE_ATTEMPT,
        rejoin_backoff=ONE_ATTEMPT,
        ssl=network.tls,
        proxy=network.proxy,
        host=network.endpoint.host,
        transport=WebSocketTransport(close_timeout=CLOSE_TIMEOUT),
        on_error=lambda _: None,  # the same errors are raised by the calls, or are in `channel.error`
    )


def _left(network: Network) -> float:
    return max(0.05, network.deadline - RESERVE - time.monotonic())


async def _open(network: Network, url: str) -> AsyncClient | ActionFacts:
    clock = Clock()
    try:
        return await _client(network, url)
    except OperationTimeout:
        return ActionFacts(seconds=clock.seconds, no_answer=True)
    except RealtimeError as error:
        return ActionFacts(seconds=clock.seconds, error=error)


async def _act(network: Network, call: Awaitable[Any], channel: AsyncChannel | None = None) -> ActionFacts:
    """Wait for a call and return its result as facts."""
    clock = Clock()
    try:
        await call
    except OperationTimeout as error:
        cause = (channel and channel.error) or error.__cause__
        if isinstance(cause, RealtimeError) and not isinstance(cause, OperationTimeout):
            return ActionFacts(seconds=clock.seconds, error=cause)
        return ActionFacts(seconds=clock.seconds, no_answer=True)
    except RealtimeError as error:
        return ActionFacts(seconds=clock.seconds, error=error)
    return ActionFacts(seconds=clock.seconds, arrived=True)


async def _public(network: Network, url: str, facts: ChannelFacts) -> None:
    client = await _open(network, url)
    if isinstance(client, ActionFacts):
        facts.public_join = client
        return
    topic = f"supawire-doctor-{secrets.token_hex(8)}"
    async with client:
        channel = client.channel(topic, echo=True, ack=True, presence_key=EVENT)
        entries = channel.listen(presence())
        messages = channel.listen(broadcast(EVENT))
        published = channel.listen(broadcast(f"{EVENT}-http"))
        facts.public_join = await _act(network, channel.subscribe(timeout=_left(network)), channel)
        if not facts.public_join.arrived:
            return
        facts.presence, facts.broadcast, facts.publish = await asyncio.gather(
            _round_trip(network, channel.track({"doctor": True}, timeout=_left(network)), _own_entry(channel, entries)),
            _round_trip(network, channel.broadcast(EVENT, {}, ack=True, timeout=_left(network)), _first(messages)),
            _round_trip(network, client.publish(topic, f"{EVENT}-http", {}, timeout=_left(network)), _first(published)),
        )


async def _round_trip(network: Network, call: Awaitable[Any], arrival: Awaitable[Any]) -> ActionFacts:
    """Send something and wait until it comes back. In the result, no_answer says whether sending was confirmed."""
    clock = Clock()
    arriving = asyncio.ensure_future(within(_left(network), arrival))
    sent = await _act(network, call)
    if sent.error is not None:
        arriving.cancel()
        await asyncio.wait([arriving])
        return sent
    arrived = await arriving is not None
    return ActionFacts(seconds=clock.seconds, no_answer=sent.no_answer, arrived=arrived)


async def _first(stream: AsyncStream[Any]) -> Any:
    async for event in stream:
        return event
    return None


async def _own_entry(channel: AsyncChannel, stream: AsyncStream[Any]) -> Any:
    async for event in stream:
        if EVENT in channel.presence_state():
            return event
    return None


async def _private(network: Network, url: str, facts: ChannelFacts, topic: str) -> None:
    client = await _open(network, url)
    if isinstance(client, ActionFacts):
        facts.private_join = client
        return
    async with client:
        channel = client.channel(topic, private=True)
        channel.on(presence(), lambda _: None)  # so that a right to read presence is enough
        facts.private_join = await _act(network, channel.subscribe(timeout=_left(network)), channel)


async def _changes(network: Network, url: str, facts: ChannelFacts) -> None:
    client = await _open(network, url)
    if isinstance(client, ActionFacts):
        facts.changes = client
        return
    async with client:
        channel = client.channel(f"supawire-doctor-{secrets.token_hex(8)}")
        channel.on(network.target.selector(), lambda _: None)
        facts.changes = await _act(network, channel.subscribe(wait="ready", timeout=_left(network)), channel)
