"""`supawire send` and `supawire publish`: send one message, over the socket or by HTTP."""

import asyncio
import time
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import Parameter

from supawire.cli.arguments import read_payload
from supawire.cli.connection import Connect, Target, open_client
from supawire.cli.output import JsonFlag, Output, shown
from supawire.errors import Sent
from supawire.options import check_event, check_topic

Topic: TypeAlias = Annotated[str, Parameter(help="The channel's topic, such as room:1.")]
EventName: TypeAlias = Annotated[str, Parameter(help="The name of the event.")]
Payload: TypeAlias = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="The payload as JSON; - reads it from stdin, @FILE from a file. An empty object if omitted.",
    ),
]
Private: TypeAlias = Annotated[
    bool, Parameter(negative=(), show_default=False, help="Use the private channel of the topic.")
]

JOIN_TIMEOUT: Final = 20.0


def send(
    topic: Topic,
    event: EventName,
    payload: Payload = None,
    /,
    *,
    private: Private = False,
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Send one message over the socket: join the channel, send, and wait for the server's confirmation."""
    check_topic(topic)
    check_event(event)
    body = read_payload(payload)
    asyncio.run(_send(topic, event, body, private, connect.target(), connect.timeout, Output(json=json)))
    return 0


async def _send(
    topic: str, event: str, payload: Any, private: bool, target: Target, timeout: float, output: Output
) -> None:
    async with open_client(target, timeout) as client:
        channel = client.channel(topic, private=private, ack=True)
        await channel.subscribe(timeout=JOIN_TIMEOUT)
        started = time.monotonic()
        sent = await channel.broadcast(event, payload)
        _report(topic, event, sent, time.monotonic() - started, output)


def publish(
    topic: Topic,
    event: EventName,
    payload: Payload = None,
    /,
    *,
    private: Private = False,
    id: Annotated[
        str | None, Parameter(help="A UUID by which receivers recognise a duplicate; the message may then be repeated.")
    ] = None,
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Send one message by HTTP, without joining the channel."""
    check_topic(topic)
    check_event(event)
    body = read_payload(payload)
    asyncio.run(_publish(topic, event, body, private, id, connect.target(), connect.timeout, Output(json=json)))
    return 0


async def _publish(
    topic: str,
    event: str,
    payload: Any,
    private: bool,
    message_id: str | None,
    target: Target,
    timeout: float,
    output: Output,
) -> None:
    async with open_client(target, timeout) as client:
        started = time.monotonic()
        sent = await client.publish(topic, event, payload, private=private, id=message_id)
        _report(topic, event, sent, time.monotonic() - started, output)


def _report(topic: str, event: str, sent: Sent, seconds: float, output: Output) -> None:
    if output.json:
        fields = {"kind": "sent", "topic": topic, "event": event, "via": sent.via, "acked": sent.acked, "id": sent.id}
        output.record({**fields, "seconds": round(seconds, 6)})
        return
    confirmed = "confirmed by the server" if sent.acked else "accepted by the server"
    output.line(f"{shown(event)} sent to {shown(topic)}: {confirmed} ({1000 * seconds:.0f} ms)")
