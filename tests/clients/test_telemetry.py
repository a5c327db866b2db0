"""Spans, metrics and trace context of both clients, with the SDK of OpenTelemetry."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from supawire import Broadcast, HandlerError, Limits, LocalServer, broadcast, changes
from supawire.errors import InvalidArgumentError, JoinDeniedError
from supawire.telemetry import Telemetry
from supawire.telemetry.recorder import MAX_LABELS, OTHER
from tests.clients.client_api import ClientApi, until

pytestmark = pytest.mark.anyio


class Sdk:
    """An SDK that keeps everything in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the finished spans with this name."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return attributes and values of a metric; of a histogram, the number of values."""
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        return [
            (dict(point.attributes or {}), getattr(point, "value", getattr(point, "count", None)))
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def value(self, name: str, **attributes: Any) -> Any:
        """Return the sum of the points of a metric that have these attributes, with `_` for dots."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return sum(value for found, value in self.points(name) if wanted.items() <= found.items())


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    made = Sdk()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_connects_joins_sends_and_handlers_have_spans(api: ClientApi, server: LocalServer, sdk: Sdk):
    """Each has one span with the names of the conventions; a handler's is a root span of the kind CONSUMER."""
    received: list[Any] = []
    async with api.client(server, telemetry=sdk.telemetry()) as client:
        room = await client.channel("room", echo=True, ack=True)
        await room.on(broadcast("e"), received.append)
        await room.subscribe()
        await room.broadcast("e", {"x": 1})
        await client.publish("room", "e", {"x": 2})
        await until(lambda: len(sdk.spans("process")) == 2)
    assert sorted(event.payload["x"] for event in received) == [1, 2]
    (connect,), (join,), (send,), (publish,) = map(sdk.spans, ("connect", "join", "send", "publish"))
    assert [span.kind for span in (connect, join, send, publish)] == [SpanKind.CLIENT] * 4
    assert attributes(join)["messaging.destination.name"] == "room"
    assert attributes(send) == {
        "messaging.system": "supabase_realtime",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "room",
        "messaging.message.body.size": 7,
        "server.address": "127.0.0.1",
        "server.port": attributes(connect)["server.port"],
    }
    for span in sdk.spans("process"):
        assert (span.kind, span.parent, len(span.links)) == (SpanKind.CONSUMER, None, 0)
        assert attributes(span)["supawire.event.kind"] == "broadcast"


async def test_what_a_handler_raises_is_in_its_span_and_its_duration(api: ClientApi, server: LocalServer, sdk: Sdk):
    """An exception makes the span an error, the duration has its class, and it is reported with the handler's name."""
    errors: list[Exception] = []

    def fail(event: Any) -> None:
        raise ValueError(event.payload)

    async def fail_later(event: Any) -> None:
        await asyncio.sleep(0)
        raise KeyError(event.payload)

    async with api.client(server, telemetry=sdk.telemetry(), on_error=errors.append) as client:
        room = await client.channel("room", echo=True)
        await room.on(broadcast("e"), fail)
        await room.on(broadcast("e"), fail_later)
        await room.on(broadcast("e"), lambda event: fail_later(event))
        await room.subscribe()
        await room.broadcast("e", "x")
        await until(lambda: len(errors) == 3 and len(sdk.spans("process")) == 3)
        assert (await client.stats()).handler_errors == 3
    assert all(isinstance(error, HandlerError) for error in errors)
    assert any("fail raised ValueError: x" in str(error) for error in errors)
    kinds = sorted(attributes(span)["error.type"] for span in sdk.spans("process"))
    assert kinds == ["KeyError", "KeyError", "ValueError"]
    assert {span.status.status_code for span in sdk.spans("process")} == {StatusCode.ERROR}
    assert sdk.value("messaging.process.duration", error_type="ValueError") == 1
    assert sdk.value("supawire.handler.errors") == 3


async def test_a_refused_join_is_an_error_of_its_span(api: ClientApi, server: LocalServer, sdk: Sdk):
    """The span of a join that is refused has the class of the error."""
    server.reject_join("room", "Unauthorized: You do not have permissions to read from this Channel topic: room")
    async with api.client(server, telemetry=sdk.telemetry()) as client:
        room = await client.channel("room")
        with pytest.raises(JoinDeniedError):
            await room.subscribe()
    (join,) = sdk.spans("join")
    assert attributes(join)["error.type"] == "JoinDeniedError" and join.status.status_code is StatusCode.ERROR


async def test_joins_after_a_lost_connection_are_spans_of_their_own(api: ClientApi, server: LocalServer, sdk: Sdk):
    """The first connect and join belong to the caller's span; those of a reconnect begin new traces."""
    with sdk.tracers.get_tracer("test").start_as_current_span("caller") as caller:
        client = await api.open(server.url, server.anon_key, telemetry=sdk.telemetry(), backoff=lambda _: 0.0)
        room = await client.channel("room")
        await room.subscribe()
    async with client:
        server.drop_connections()
        await until(lambda: len(sdk.spans("join")) == 2)
        assert (await client.stats()).reconnects == 1
    own = caller.get_span_context().trace_id
    for name in ("connect", "join"):
        first, second = sdk.spans(name)[:2]
        assert first.context is not None and second.parent is None
        if name == "join" or api.name == "async":  # the thread of a sync client starts without a context
            assert first.context.trace_id == own, name


async def test_broadcasts_carry_the_trace_context(api: ClientApi, server: LocalServer, sdk: Sdk):
    """With `propagate`, the handler's span links to the sender's, by socket and HTTP; the payload is as it was sent."""
    received: list[Broadcast[Any]] = []
    async with api.client(server, telemetry=sdk.telemetry(propagate=True)) as client:
        room = await client.channel("room", echo=True)
        stream = await room.listen(broadcast())
        await room.on(broadcast(), received.append)
        await room.subscribe()
        for payload in ({"x": 1}, [2], b"\x03"):
            await room.broadcast("e", payload)
        await client.publish("room", "e", {"x": 4})
        await client.publish_many([{"topic": "room", "event": "e", "payload": {"x": 5}, "id": None}])
        await until(lambda: len(sdk.spans("process")) == 5)
        iterated = await stream.take(5)
    assert [event.payload for event in received] == [{"x": 1}, [2], b"\x03", {"x": 4}, {"x": 5}]
    assert [event.payload for event in iterated] == [event.payload for event in received]
    sends, publishes, processes = sdk.spans("send"), sdk.spans("publish"), sdk.spans("process")
    assert {span.kind for span in (*sends, *publishes)} == {SpanKind.PRODUCER}
    linked = [[link.context.span_id for link in span.links] for span in processes]
    senders = [span.context.span_id for span in (*sends, *publishes) if span.context is not None]
    assert linked == [[senders[0]], [senders[1]], [], [senders[3]], [senders[4]]]
    assert '"meta":{"traceparent":' in "".join(str(frame.payload) for frame in server.frames).replace("'", '"').replace(
        ": ", ":"
    )


async def test_a_stream_from_a_cursor_gets_the_payload_as_sent(api: ClientApi, server: LocalServer, sdk: Sdk):
    """With `propagate`, it does not see the member `_traceparent` of a message by HTTP that has an id."""
    async with api.client(server, token=server.token(), telemetry=sdk.telemetry(propagate=True)) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=time.time()) as stream:
            waiting = asyncio.create_task(stream.next())
            await until(lambda: room.state == "joined")
            await client.publish("room", "e", {"x": 1}, private=True, id=UUID(int=5))
            message: Any = await waiting
    assert (message.payload, message.id) == ({"x": 1}, str(UUID(int=5)))


async def test_a_client_without_telemetry_gets_the_payload_as_sent(api: ClientApi, server: LocalServer, sdk: Sdk):
    """A broadcast by WebSocket carries the trace context beside the payload, where other receivers do not see it."""
    async with (
        api.client(server, telemetry=sdk.telemetry(propagate=True)) as sender,
        api.client(server) as receiver,
    ):
        room, other = await sender.channel("room"), await receiver.channel("room")
        stream = await other.listen(broadcast())
        await room.subscribe()
        await other.subscribe()
        await room.broadcast("e", {"x": 1})
        (event,) = await stream.take(1)
        assert event == Broadcast("room", "e", {"x": 1})


async def test_an_iterator_makes_spans_by_process(api: ClientApi, server: LocalServer, sdk: Sdk):
    """`telemetry.process(event)` makes the linked span of an event that an iterator has returned."""
    telemetry = sdk.telemetry(propagate=True)
    async with api.client(server, telemetry=telemetry) as client:
        room = await client.channel("room", echo=True)
        stream = await room.listen(broadcast())
        await room.subscribe()
        await room.broadcast("e", {"x": 1})
        (event,) = await stream.take(1)
    with telemetry.process(event):
        inside = trace.get_current_span().get_span_context()
    with pytest.raises(ValueError, match="no"), telemetry.process(event):
        raise ValueError("no")
    first, failed = sdk.spans("process")
    (send,) = sdk.spans("send")
    assert first.context is not None and first.context.span_id == inside.span_id
    assert send.context is not None
    assert [link.context.span_id for link in first.links] == [send.context.span_id]
    assert attributes(failed)["error.type"] == "ValueError"


async def test_the_metrics_are_the_counters_of_stats(api: ClientApi, server: LocalServer, sdk: Sdk):
    """Counters stay when channels are removed and clients end, and are sums over the clients."""
    telemetry = sdk.telemetry()
    for round_ in (1, 2):
        async with api.client(server, telemetry=telemetry, limits=Limits(messages_per_second=500)) as client:
            room = await client.channel("room", echo=True)
            stream = await room.listen(broadcast(), buffer=1, overflow="drop_newest")
            await room.subscribe()
            for number in range(3):
                await room.broadcast("e", number)
            await client.publish("other", "e", {})
            await until(lambda room=room: room.inner.stats().overflowed == 2)
            assert sdk.value("supawire.events.waiting") == 1
            assert sdk.value("supawire.clients", state="open") == 1
            assert sdk.value("supawire.channels", state="joined") == 1
            assert (
                sdk.value("supawire.budget.left", of="messages") + sdk.value("supawire.budget.used", of="messages")
                == 500
            )
            await stream.close()
            await client.remove_channel(room)
        assert sdk.value("messaging.client.sent.messages", messaging_operation_name="send") == 3 * round_
        assert sdk.value("messaging.client.sent.messages", messaging_operation_name="publish") == round_
        assert sdk.value("messaging.client.consumed.messages") == 3 * round_
        assert sdk.value("supawire.events.dropped") == 2 * round_
        assert sdk.value("supawire.connects") == round_
        assert sdk.value("supawire.clients") == 0


def room_of(topic: str) -> str | None:
    kind, _, rest = topic.partition(":")
    return kind if rest else None


async def test_topics_have_labels_when_asked_for(api: ClientApi, server: LocalServer, sdk: Sdk):
    """A function maps topics to labels; counters stay when a channel is removed. Names of spans have the label."""
    async with api.client(server, telemetry=sdk.telemetry(topics=room_of)) as client:
        for topic in ("room:1", "room:2", "plain"):
            channel = await client.channel(topic, ack=True)
            await channel.subscribe()
            await channel.broadcast("e", {})
            if topic == "room:1":
                await client.remove_channel(channel)
        sent = {
            found.get("messaging.destination.template"): value
            for found, value in sdk.points("messaging.client.sent.messages")
            if found["messaging.operation.name"] == "send"
        }
        assert sent == {"room": 2, None: 1}
    assert (len(sdk.spans("send room")), len(sdk.spans("send"))) == (2, 1)


@pytest.mark.parametrize("topics", [True, lambda topic: topic])
def test_the_number_of_labels_is_bounded(sdk: Sdk, topics: Callable[[str], str]):
    """Topics beyond the first 200 labels share one."""
    telemetry = sdk.telemetry(topics=topics)
    labels = {telemetry.label(f"room{number}") for number in range(MAX_LABELS + 50)}
    assert len(labels) == MAX_LABELS + 1 and OTHER in labels


@pytest.mark.parametrize("topics", [lambda topic: 1 / 0, lambda topic: [topic], lambda topic: 17])
def test_a_function_for_labels_that_fails_is_logged_once(sdk: Sdk, caplog: pytest.LogCaptureFixture, topics: Any):
    """An exception or a wrong type reaches neither a handler nor the client; there is one line in the log."""
    telemetry = sdk.telemetry(topics=topics)
    assert [telemetry.label("a"), telemetry.label("b")] == [None, None]
    assert [record.name for record in caplog.records] == ["supawire.telemetry"]


async def test_the_lag_of_changes_is_recorded(api: ClientApi, server: LocalServer, sdk: Sdk):
    """Each change at a handler or an iterator gives one value: the seconds since its commit."""
    received: list[Any] = []
    async with api.client(server, telemetry=sdk.telemetry()) as client:
        room = await client.channel("room")
        await room.on(changes("users"), received.append)
        stream = await room.listen(changes("users"))
        await room.subscribe(wait="ready")
        server.emit("INSERT", "users", record={"id": 1})
        await stream.take(1)
        await until(lambda: sdk.value("messaging.process.duration", supawire_event_kind="change") == 1)
    assert sdk.value("supawire.change.lag") == 2


async def test_only_spans_or_only_metrics(api: ClientApi, server: LocalServer, sdk: Sdk):
    """`traces=False` makes no span, `metrics=False` no metric."""
    for options in ({"traces": False}, {"metrics": False}):
        async with api.client(server, telemetry=sdk.telemetry(**options)) as client:
            room = await client.channel("room", echo=True, ack=True)
            done: list[Any] = []
            await room.on(broadcast(), done.append)
            await room.subscribe()
            await room.broadcast("e", {})
            await until(lambda done=done: done)
        if "traces" in options:
            assert not sdk.exporter.get_finished_spans()
            assert sdk.value("messaging.client.operation.duration", messaging_operation_name="send") == 1
    assert sdk.spans("process") and sdk.value("supawire.connects") == 1


@pytest.mark.parametrize("wrong", [True, "yes", TracerProvider])
def test_a_wrong_telemetry_is_refused_at_once(wrong: Any):
    """`telemetry=` takes a `Telemetry`; the error says so."""
    from supawire import connect

    with pytest.raises(InvalidArgumentError, match=r"telemetry must be a supawire\.telemetry\.Telemetry"):
        connect("http://127.0.0.1:1", "key", telemetry=wrong)
    with pytest.raises(InvalidArgumentError, match="topics"):
        Telemetry(topics=5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wrong", [["app"], {"app": ["bot"]}, {1: "bot"}])
def test_wrong_attributes_are_refused_at_once(sdk: Sdk, wrong: Any):
    """They would fail only when the metrics are read, or when the client is closed."""
    with pytest.raises(InvalidArgumentError, match="mapping of str to str"):
        sdk.telemetry(attributes=wrong)


def test_opentelemetry_is_imported_only_when_it_is_asked_for():
    """The clients do not import it; without it, the error of `supawire.telemetry` names the extra."""
    program = """
import sys
from supawire import connect, connect_async
assert "opentelemetry" not in sys.modules
sys.modules["opentelemetry"] = None
try:
    from supawire.telemetry import Telemetry
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'supawire[otel]'" in done.stdout
