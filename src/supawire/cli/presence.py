"""`supawire presence`: who is present in a channel, once or live."""

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.live import Live
from rich.table import Table

from supawire.cli.arguments import Duration
from supawire.cli.connection import Connect, Target, open_client
from supawire.cli.event_output import event_fields, event_line, shown_json
from supawire.cli.messages import Private, Topic
from supawire.cli.output import JsonFlag, Output, shown
from supawire.errors import InvalidArgumentError, OperationTimeout
from supawire.events import PresenceState, PresenceSync
from supawire.options import check_topic
from supawire.selectors import presence as select_presence

if TYPE_CHECKING:
    from supawire.aio.channel import AsyncChannel

MAX_ROWS = 200
"""Maximum rows of the table; the rest is counted."""


def presence(
    topic: Topic,
    /,
    *,
    watch: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Continue, and show who joins and leaves.")
    ] = False,
    for_: Annotated[Duration | None, Parameter(name="--for", help="End --watch after this time, such as 30s.")] = None,
    private: Private = False,
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Show who is present in a channel, without being present in it."""
    check_topic(topic)
    if for_ is not None and not watch:
        raise InvalidArgumentError("--for ends --watch; give --watch as well")
    output = Output(json=json)
    asyncio.run(_show(topic, private, watch, for_, connect.target(), connect.timeout, output))
    return 0


async def _show(
    topic: str, private: bool, watch: bool, seconds: float | None, target: Target, timeout: float, output: Output
) -> None:
    async with open_client(target, timeout) as client:
        channel = client.channel(topic, private=private)
        if not watch:
            _print(await _first_state(channel, timeout), output)
            return
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await _watch(channel, output)
        except TimeoutError:
            if not limit.expired():
                raise


async def _first_state(channel: "AsyncChannel", timeout: float) -> "PresenceState":
    stream = channel.listen(select_presence())
    await channel.subscribe()
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            async for event in stream:
                if isinstance(event, PresenceSync):
                    return event.state
    except TimeoutError:
        if not limit.expired():
            raise
    raise OperationTimeout(f"the server sent no presence of {channel.topic} within {timeout:g} s", topic=channel.topic)


async def _watch(channel: "AsyncChannel", output: Output) -> None:
    stream = channel.listen(select_presence())
    if not output.live:
        async for event in stream:
            if output.json:
                output.record(event_fields(event))
            else:
                output.line(*event_line(event))
        return
    with Live(console=output.console, auto_refresh=False) as live:
        async for event in stream:
            if isinstance(event, PresenceSync):
                live.update(_table(channel.topic, event.state), refresh=True)


def _print(state: "PresenceState", output: Output) -> None:
    if output.json:
        for key, entries in state.items():
            output.record({"key": key, "entries": [{"payload": entry.payload, "ref": entry.ref} for entry in entries]})
    elif state:
        output.console.print(_table(None, state))
    else:
        output.line("Nobody is present.")


def _table(topic: str | None, state: "PresenceState") -> Table:
    count = f"{len(state)} present"
    table = Table("key", "devices", "payload", box=None, pad_edge=False, caption_justify="left")
    table.title = None if topic is None else f"{shown(topic)}: {count}"
    table.title_justify = "left"
    for key, entries in list(state.items())[:MAX_ROWS]:
        table.add_row(shown(key), str(len(entries)), " ".join(shown_json(entry.payload) for entry in entries))
    if len(state) > MAX_ROWS:
        table.caption = f"and {len(state) - MAX_ROWS} more"
    return table
