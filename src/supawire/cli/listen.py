"""`supawire listen`: show the events of a channel, and pass them on to a command or a URL."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from cyclopts import Group, Parameter
from rich.text import Text

from supawire.cli import FAILURE, SUCCESS
from supawire.cli.arguments import Duration
from supawire.cli.connection import Connect, Target, open_client
from supawire.cli.event_output import event_fields, event_line, is_data, is_passing
from supawire.cli.output import JsonFlag, Output, make_console, print_error
from supawire.errors import InvalidArgumentError, SlowConsumerError
from supawire.events import Event, Status, System
from supawire.options import check_count, check_topic
from supawire.selectors import ChangeEvent, Selector, broadcast, changes, gaps, status, system
from supawire.selectors import presence as select_presence

if TYPE_CHECKING:
    from supawire.aio.client import AsyncClient
    from supawire.cli.deliveries import Deliveries, Outcome

MAX_IN_FLIGHT: Final = 100
SECRET_NAME: Final = "SUPAWIRE_WEBHOOK_SECRET"  # noqa: S105  the name of a variable

_EVENTS: Final = Group("Events", sort_key=1)
_END: Final = Group("When to end", sort_key=2)
_PASS_ON: Final = Group("Passing events on", sort_key=3)


def listen(
    topic: Annotated[str, Parameter(help="The channel's topic, such as room:1.")],
    /,
    *,
    event: Annotated[
        str,
        Parameter(
            group=_EVENTS, help="Only this event: the name of broadcasts, or with --table INSERT, UPDATE or DELETE."
        ),
    ] = "*",
    table: Annotated[
        str | None,
        Parameter(group=_EVENTS, help="Row changes of this table instead of broadcasts; '*' for all tables."),
    ] = None,
    schema: Annotated[str | None, Parameter(group=_EVENTS, help="The table's schema; public if omitted.")] = None,
    filter: Annotated[
        str | None, Parameter(group=_EVENTS, help="Only rows that match, such as status=eq.open. Needs --table.")
    ] = None,
    presence: Annotated[
        bool, Parameter(group=_EVENTS, negative=(), show_default=False, help="Also who joins and leaves.")
    ] = False,
    private: Annotated[
        bool, Parameter(group=_EVENTS, negative=(), show_default=False, help="Use the private channel of the topic.")
    ] = False,
    count: Annotated[int | None, Parameter(group=_END, help="End after this number of events.")] = None,
    for_: Annotated[
        Duration | None,
        Parameter(
            name="--for",
            group=_END,
            help="End after this time, such as 30s; exit code 1 if --count was not reached.",
        ),
    ] = None,
    exec_: Annotated[
        str | None,
        Parameter(
            name="--exec",
            group=_PASS_ON,
            help="Run this command for each event, with the event as JSON on stdin. It is run without a shell.",
        ),
    ] = None,
    forward_to: Annotated[
        str | None, Parameter(group=_PASS_ON, help="Post each event to this URL as a signed webhook, with retries.")
    ] = None,
    secret: Annotated[
        str | None,
        Parameter(
            group=_PASS_ON,
            env_var=SECRET_NAME,
            show_env_var=True,
            help="Secret of the signatures, whsec_ and base64. Without it a new one is made and printed.",
        ),
    ] = None,
    in_flight: Annotated[
        int,
        Parameter(
            group=_PASS_ON,
            help="Events that are passed on at once. With 1, each one is finished before the next one starts.",
        ),
    ] = 1,
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Show the events of a channel as they arrive.

    Events are printed on stdout, changes of the connection's and channel's state on stderr. A gap is a time in which
    events may have been missed.
    """
    selected = select_events(event, table, schema, filter, presence=presence)
    check_topic(topic)
    if count is not None:
        check_count("--count", count)
    check_count("--in-flight", in_flight, maximum=MAX_IN_FLIGHT)
    if exec_ is not None and forward_to is not None:
        raise InvalidArgumentError("--exec and --forward-to both take the events; give one of them")
    if secret and forward_to is None and secret != os.environ.get(SECRET_NAME):
        raise InvalidArgumentError("--secret signs webhooks; give --forward-to as well")
    return asyncio.run(
        _Listening(
            topic, selected, connect.target(), connect.timeout, private=private, count=count, output=Output(json=json)
        ).run(for_, exec_, forward_to, secret, in_flight)
    )


def select_events(
    event: str, table: str | None, schema: str | None, filter: str | None, *, presence: bool
) -> list[Selector[Any]]:
    """Return what to listen to: broadcasts or row changes, messages of the server, gaps and states."""
    if table is None and (schema is not None or filter is not None):
        raise InvalidArgumentError("--schema and --filter are for row changes; give --table as well")
    kind = cast("ChangeEvent", event)  # checked there
    first = broadcast(event) if table is None else changes(table, schema=schema, event=kind, filter=filter)
    return [first, *([select_presence()] if presence else []), system(), gaps(), status()]


class _Listening:
    """One run of the command."""

    def __init__(
        self,
        topic: str,
        selectors: list[Selector[Any]],
        target: Target,
        timeout: float,
        *,
        private: bool,
        count: int | None,
        output: Output,
    ) -> None:
        self._topic = topic
        self._selectors = selectors
        self._target = target
        self._timeout = timeout
        self._private = private
        self._remaining = count
        self._output = output
        self._notes = make_console(stderr=True)
        self._dropped = False

    async def run(
        self, seconds: float | None, exec_: str | None, forward_to: str | None, secret: str | None, in_flight: int
    ) -> int:
        """Listen until the end, and return the exit code."""
        deliveries: Deliveries | None = None
        try:
            async with AsyncExitStack() as stack:
                deliveries = await stack.enter_async_context(self._deliveries(exec_, forward_to, secret, in_flight))
                await self._listen(deliveries, seconds)
        finally:
            if deliveries is not None and deliveries.unfinished:
                print_error(f"received but not passed on: {deliveries.unfinished} of the events")
        if deliveries is not None and (deliveries.failed or deliveries.unfinished):
            if deliveries.failed:
                print_error(f"could not be passed on: {deliveries.failed} of the events")
            return FAILURE
        if self._remaining:
            print_error(f"the time of --for is over, and {self._remaining} of the events of --count are missing")
            return FAILURE
        return FAILURE if self._dropped else SUCCESS

    async def _listen(self, deliveries: "Deliveries | None", seconds: float | None) -> None:
        async with open_client(self._target, self._timeout) as client, asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch_connection(client))
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    await self._receive(client, deliveries)
            except TimeoutError:
                if not limit.expired():  # a timeout of the client
                    raise
            watching.cancel()

    async def _receive(self, client: "AsyncClient", deliveries: "Deliveries | None") -> None:
        channel = client.channel(self._topic, private=self._private)
        stream = channel.listen(*self._selectors, overflow="pause")
        while True:
            try:
                async for event in stream:
                    await self._take(event, deliveries)
                    if self._remaining == 0:
                        return
            except SlowConsumerError as error:
                print_error(str(error))
                self._dropped = True
            else:
                return

    async def _take(self, event: Event, deliveries: "Deliveries | None") -> None:
        if isinstance(event, Status | System):
            self._note(event)
            return
        fields = event_fields(event)
        if self._output.json:
            self._output.record(fields)
        else:
            self._output.line(*event_line(event))
        if deliveries is not None:
            await deliveries.put(fields)
        if self._remaining is not None and is_data(event):
            self._remaining -= 1

    async def _watch_connection(self, client: "AsyncClient") -> None:
        async for event in client.listen():
            if isinstance(event, Status) and event.topic is None:
                self._note(event)

    def _note(self, event: Status | System) -> None:
        if is_passing(event):
            return
        self._notes.print(Text.assemble(*event_line(event)), soft_wrap=True)

    @asynccontextmanager
    async def _deliveries(
        self, exec_: str | None, forward_to: str | None, secret: str | None, in_flight: int
    ) -> "AsyncGenerator[Deliveries | None]":
        if exec_ is None and forward_to is None:
            yield None
            return
        from supawire import _webhooks
        from supawire.cli import deliveries

        async with AsyncExitStack() as stack:
            if exec_ is not None:
                receiver: deliveries.Receiver = deliveries.CommandReceiver(exec_)
            else:
                url = _webhooks.check_url(forward_to or "")
                used = secret or _webhooks.make_secret()
                signer = _webhooks.make_signer(used)
                if not secret:
                    self._notes.print(f"Secret of the signatures: {used}", soft_wrap=True)
                receiver = await stack.enter_async_context(deliveries.webhook_receiver(url, signer))
            made = deliveries.Deliveries(receiver, in_flight, self._report)
            await stack.enter_async_context(made.running())
            yield made

    def _report(self, fields: Mapping[str, Any], outcome: "Outcome") -> None:
        """Print how a delivery ended; with --json only those that failed."""
        attempts = f" after {outcome.attempts} attempts" if outcome.attempts > 1 else ""
        text = f"{outcome.detail}{attempts} ({1000 * outcome.seconds:.0f} ms)"
        if not outcome.delivered:
            print_error(f"{fields['kind']} was not passed on: {text}")
        elif not self._output.json:
            self._notes.print(Text(f"         passed on: {text}", "dim"), soft_wrap=True)
