"""Makes the spans and metrics of clients, with the API of OpenTelemetry.

Counters and gauges are read from `stats()` when the SDK collects them, so they cost nothing per message. Spans and
durations of handlers are measured by a function around each handler, which exists only in clients that were opened with
`telemetry=`. Trace contexts are those of W3C; see `core.trace_context` for their place in a message.
"""

import asyncio
import inspect
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from supawire.core.trace_context import take, trace_of
from supawire.errors import InvalidArgumentError
from supawire.events import (
    Broadcast,
    ChannelState,
    ChannelStats,
    ConnectionState,
    Delete,
    Insert,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Stats,
    Update,
)
from supawire.events import Status as StatusEvent
from supawire.options import check_bool, check_takes
from supawire.telemetry.instruments import (
    CHANNEL_COUNTERS,
    CHANNEL_GAUGES,
    CLIENT_COUNTERS,
    CLIENT_GAUGES,
    DURATION_BUCKETS,
    LAG,
    LAST_VALUES,
    MIRROR_COUNTERS,
    OPERATION_DURATION,
    PROCESS_DURATION,
    WORKER_COUNTERS,
    WORKER_GAUGES,
    Metric,
)

if TYPE_CHECKING:
    from supawire._mirror_events import MirrorStats
    from supawire.worker.serving import WorkerStats

SYSTEM: Final = "supabase_realtime"
"""The value of `messaging.system`."""

MAX_LABELS: Final = 200
"""The most labels of topics; further ones are counted as `OTHER`."""

OTHER: Final = "other"

_ROOT: Final = Context()
_trace_context: Final = TraceContextTextMapPropagator()
_CHANGES: Final = (Insert, Update, Delete)
_PRESENCE: Final = (PresenceSync, PresenceJoin, PresenceUpdate, PresenceLeave)


class Source(Protocol):
    """A client, as telemetry sees it. `stats` and `channel_stats` may be called on any thread."""

    def stats(self) -> Stats:
        """Return the counters of the client."""
        ...

    def stats_by_topic(self) -> Mapping[str, ChannelStats]:
        """Return the counters of each channel."""
        ...


class WorkerLike(Protocol):
    """A worker: an object with its `stats()`."""

    def stats(self) -> "WorkerStats":
        """Return the counters of its jobs."""
        ...


class MirrorLike(Protocol):
    """A mirror: an object with its `stats()`."""

    def stats(self) -> "MirrorStats":
        """Return its counters."""
        ...


class Telemetry:
    """Spans and metrics of one or more clients, for `connect(..., telemetry=…)` and `connect_async`.

    Args:
        tracer_provider, meter_provider: those of your SDK; if omitted, the global ones of OpenTelemetry.
        traces, metrics: whether there are spans, and whether there are metrics.
        topics: True: metrics and names of spans have the topic of a channel, which is right only for few topics. A
            function: called with a topic, returns a label for it, such as "room" for "room:17", or None. At most 200
            labels; further ones become "other". False: metrics are sums over all channels. Spans have the topic as an
            attribute in any case.
        propagate: send the trace context with broadcasts, so that handlers of clients that have `propagate` too get a
            span with a link to the span of the sender.
        attributes: further attributes of all metrics, such as `{"app": "bot"}`.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        traces: bool = True,
        metrics: bool = True,
        topics: bool | Callable[[str], str | None] = False,
        propagate: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self.propagates: Final = check_bool("propagate", propagate)
        if not isinstance(topics, bool):
            check_takes("topics", topics, 1, "a bool, or a function from a topic to a label")
        self.has_topics: Final = topics is not False
        self._topics = topics
        self._labels: dict[str, None] = {}
        self._label_failed = False
        self._attributes: Final = _check_attributes(attributes or {})
        provider = tracer_provider if tracer_provider is not None else trace.get_tracer_provider()
        self.tracer: Final = provider.get_tracer("supawire") if check_bool("traces", traces) else None
        self._lock: Final = threading.Lock()
        self._clients: Final[weakref.WeakSet[ClientTelemetry]] = weakref.WeakSet()
        self._ended: Final[Counter[_Series]] = Counter()
        """The counters of clients and channels that are gone, so that no sum falls."""
        self._workers: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
        self._mirrors: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
        self.records: _Histograms | None = None
        if check_bool("metrics", metrics):
            self._create_instruments(meter_provider)

    def _create_instruments(self, provider: MeterProvider | None) -> None:
        meter = (provider if provider is not None else metrics.get_meter_provider()).get_meter("supawire")
        self.records = _Histograms(*(
            meter.create_histogram(
                one.name, one.unit, one.description, explicit_bucket_boundaries_advisory=DURATION_BUCKETS
            )
            for one in (PROCESS_DURATION, OPERATION_DURATION, LAG)
        ))  # fmt: skip
        for group, create, read in (
            (CHANNEL_COUNTERS + CLIENT_COUNTERS, meter.create_observable_counter, self._read_counters),
            (CHANNEL_GAUGES + CLIENT_GAUGES, meter.create_observable_up_down_counter, self._read_gauges),
            (LAST_VALUES, meter.create_observable_gauge, self._read_last_values),
            (WORKER_COUNTERS, meter.create_observable_counter, self._reads(self._workers, WORKER_COUNTERS)),
            (WORKER_GAUGES, meter.create_observable_up_down_counter, self._reads(self._workers, WORKER_GAUGES)),
            (MIRROR_COUNTERS, meter.create_observable_counter, self._reads(self._mirrors, MIRROR_COUNTERS)),
        ):
            for name, (unit, description) in {one.name: (one.unit, one.description) for one in group}.items():
                create(name, [_Callback(read, name)], unit, description)

    # --- public

    @contextmanager
    def process(self, event: Any) -> Generator[None, None, None]:
        """Make the span of processing an event of an iterator, as handlers have it; a context manager.

        It records the duration, and what the block raises. For events that are not messages it does nothing.
        """
        processing = _begin(self, event, {}, self._attributes)
        if processing is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            processing.end(error)
            raise
        processing.end(None)

    def watch_worker(self, worker: WorkerLike, name: str = "worker") -> None:
        """Also observe a worker. Args: name: the value of the attribute `worker`."""
        self._workers[name] = worker

    def watch_mirror(self, mirror: MirrorLike, name: str) -> None:
        """Also observe a mirror. Args: name: the value of the attribute `mirror`, such as that of the table."""
        self._mirrors[name] = mirror

    def label(self, topic: str) -> str | None:
        """Return the label of a topic in metrics, None for no label."""
        if self._topics is False:
            return None
        if self._topics is True:
            label = topic
        else:
            try:
                label = cast("object", self._topics(topic))
            except Exception as error:  # noqa: BLE001  errors of user code never end the client
                self._log_label("topics= raised for %r", topic, error=error)
                return None
            if label is not None and not isinstance(label, str):
                kind = type(label).__name__
                self._log_label("topics= returned a %s for %r, not a str or None; it is ignored", kind, topic)
                return None
        if label is None or label in self._labels:
            return label
        if len(self._labels) >= MAX_LABELS:
            return OTHER
        self._labels[label] = None
        return label

    def _log_label(self, message: str, *given: object, error: Exception | None = None) -> None:
        """Log the first failure of the function for labels."""
        if not self._label_failed:
            self._label_failed = True
            logging.getLogger("supawire.telemetry").error(message, *given, exc_info=error)

    # --- for clients

    def client(self, source: Source, address: str) -> "ClientTelemetry":
        """Return what a client calls. Args: address: host and port of its server."""
        made = ClientTelemetry(self, source, address, self._attributes)
        with self._lock:
            self._clients.add(made)
        return made

    def retire(self, client: "ClientTelemetry") -> None:
        """Keep the counters of a client that has ended."""
        with self._lock:
            if client in self._clients:
                self._clients.discard(client)
                self._ended.update(client.counters())

    def retire_channel(self, counters: Mapping["_Series", float]) -> None:
        """Keep the counters of a channel that is removed."""
        with self._lock:
            self._ended.update(counters)

    # --- reading

    def _read_counters(self, name: str) -> Iterable[Observation]:
        with self._lock:
            found = Counter(self._ended)
            for client in self._clients:
                found.update(client.counters(name))
        return [Observation(value, dict(series.attributes)) for series, value in found.items() if series.name == name]

    def _read_gauges(self, name: str) -> Iterable[Observation]:
        with self._lock:
            found: Counter[_Series] = Counter()
            for client in self._clients:
                found.update(client.gauges(name))
        return [Observation(value, dict(series.attributes)) for series, value in found.items() if series.name == name]

    def _read_last_values(self, name: str) -> Iterable[Observation]:
        found: dict[_Series, float] = {}
        with self._lock:
            for client in self._clients:
                for series, value in client.last_values():
                    found[series] = max(value, found.get(series, value))
        return [Observation(value, dict(series.attributes)) for series, value in found.items() if series.name == name]

    def _reads(
        self, watched: "weakref.WeakValueDictionary[str, Any]", group: Sequence[Metric]
    ) -> Callable[[str], Iterable[Observation]]:
        kind = "worker" if watched is self._workers else "mirror"

        def read(name: str) -> Iterable[Observation]:
            for key, thing in list(watched.items()):
                stats = thing.stats()
                parts = {"": stats} if kind == "mirror" else stats.jobs
                for job, part in parts.items():
                    attributes = {**self._attributes, kind: key} | ({"job": job} if job else {})
                    for metric in group:
                        if metric.name == name:
                            yield Observation(metric.read(part), {**attributes, **metric.extra})

        return read


def _check_attributes(attributes: object) -> dict[str, str]:
    if isinstance(attributes, Mapping):
        given = cast("Mapping[Any, Any]", attributes)
        if all(isinstance(part, str) for item in given.items() for part in item):
            return dict(given)
    raise InvalidArgumentError(
        f"attributes must be a mapping of str to str, not {attributes!r}", hint="Such as attributes={'app': 'bot'}."
    )


class _Callback:
    """Reads one metric when the SDK collects it."""

    def __init__(self, read: Callable[[str], Iterable[Observation]], name: str) -> None:
        self._read = read
        self._name = name

    def __call__(self, options: CallbackOptions) -> Iterable[Observation]:
        return self._read(self._name)


class _Series(NamedTuple):
    """A metric with the values of its attributes."""

    name: str
    attributes: tuple[tuple[str, str | int], ...]


class _Histograms(NamedTuple):
    process: metrics.Histogram
    operation: metrics.Histogram
    lag: metrics.Histogram


class ClientTelemetry:
    """The telemetry of one client; a client without `telemetry=` has none."""

    def __init__(self, owner: Telemetry, source: Source, address: str, attributes: Mapping[str, str]) -> None:
        self.owner: Final = owner
        self.propagates: Final = owner.propagates
        self._source: Final = source
        host, _, port = address.rpartition(":")
        server = (
            {"server.address": host, "server.port": int(port)}
            if host and port.isdigit()
            else {"server.address": address}
        )
        self._server: Final[dict[str, Any]] = server
        self._attributes: Final[dict[str, Any]] = {**attributes, "messaging.system": SYSTEM, **server}
        self._pending: Final[dict[str | None, Operation]] = {}
        """The running connect, under None, and the running joins by topic."""
        self._callers: Final[dict[str, Context]] = {}
        """The contexts of the calls that wait for a join which is not sent yet, by topic."""

    # --- metrics

    def counters(self, name: str | None = None) -> dict[_Series, float]:
        """Return the counters with this name, or all, with labels for topics if these are wanted."""
        return self._values(CHANNEL_COUNTERS, CLIENT_COUNTERS, name)

    def gauges(self, name: str) -> dict[_Series, float]:
        """Return the values of this moment that are added up over clients."""
        return self._values(CHANNEL_GAUGES, CLIENT_GAUGES, name)

    def last_values(self) -> Iterable[tuple[_Series, float]]:
        """Yield the values of this moment that cannot be added up."""
        stats = self._source.stats()
        for metric in LAST_VALUES:
            value = cast("float | None", metric.read(stats))
            if value is not None:
                yield self._series(metric, None), value

    def channel_removed(self, topic: str, stats: ChannelStats) -> None:
        """Keep the counters of a channel that is about to be removed."""
        if self.owner.has_topics:  # otherwise the client keeps them
            label = self.owner.label(topic)
            self.owner.retire_channel({self._series(one, label): one.read(stats) for one in CHANNEL_COUNTERS})

    def ended(self) -> None:
        """Keep the counters, because the client has ended."""
        self.owner.retire(self)

    def _values(
        self, of_channels: Sequence[Metric], of_client: Sequence[Metric], name: str | None
    ) -> dict[_Series, float]:
        of_channels = [one for one in of_channels if name in (None, one.name)]
        stats = self._source.stats()
        read = {self._series(one, None): one.read(stats) for one in of_client if name in (None, one.name)}
        found: Counter[_Series] = Counter({series: value for series, value in read.items() if value is not None})
        if not self.owner.has_topics:
            return {**found, **{self._series(one, None): one.read(stats) for one in of_channels}}
        if not of_channels:
            return {**found}
        sums: dict[str | None, list[float]] = {}
        for topic, channel in self._source.stats_by_topic().items():
            so_far = sums.setdefault(self.owner.label(topic), [0] * len(of_channels))
            for index, one in enumerate(of_channels):
                so_far[index] += one.read(channel)
        for label, values in sums.items():
            found.update({self._series(one, label): value for one, value in zip(of_channels, values, strict=True)})
        return {**found}

    def _series(self, metric: Metric, label: str | None) -> _Series:
        topic = {} if label is None else {"messaging.destination.template": label}
        return _Series(metric.name, tuple(sorted({**self._attributes, **metric.extra, **topic}.items())))

    # --- messages in

    def handler(self, function: Callable[[Any], Any], *, is_async: bool) -> Callable[[Any], Any]:
        """Return a function that calls the handler, with a span and a duration for each message."""
        begin = self._begin

        def call(event: Any) -> Any:
            event, processing = begin(event)
            if processing is None:
                return function(event)
            try:
                result = function(event)
            except BaseException as error:
                processing.end(error)
                raise
            if result is not None and inspect.isawaitable(result) and not isinstance(result, asyncio.Future):
                processing.suspend()
                return _Awaited(result, processing)
            processing.end(None)
            return result

        async def call_async(event: Any) -> None:
            event, processing = begin(event)
            try:
                await function(event)
            except BaseException as error:
                if processing is not None:
                    processing.end(error)
                raise
            if processing is not None:
                processing.end(None)

        return call_async if is_async else call

    def listener(self, put: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the listener of an iterator, which takes out the trace context and records the lag of changes."""
        records = self.owner.records

        def received(event: Any) -> Any:
            if isinstance(event, Broadcast):
                if self.propagates:
                    event = take(cast("Broadcast[Any]", event))
            elif records is not None and isinstance(event, _CHANGES):
                _record_lag(records.lag, event, self._attributes)
            return put(event)

        return received

    def _begin(self, event: Any) -> "tuple[Any, Processing | None]":
        """Return the event for the handler, and its running call; None if it is not a message."""
        if self.propagates and isinstance(event, Broadcast):
            event = take(cast("Broadcast[Any]", event))
        return event, _begin(self.owner, event, self._server, self._attributes)

    # --- messages out

    def send(self, topic: str, size: int, *, confirmed: bool) -> "Operation | None":
        """Begin the span of a broadcast; None if it neither waits for a confirmation nor carries the trace context."""
        if not confirmed and not self.propagates:
            return None
        return self._operation("send", topic, {"messaging.message.body.size": size}, records=confirmed)

    @contextmanager
    def publish(self, topic: str | None, messages: int) -> Generator[str | None, None, None]:
        """Make the span of messages by HTTP; yields the trace context for them, None if they carry none."""
        extra: dict[str, Any] = {} if topic is not None else {"messaging.batch.message_count": messages}
        with self._operation("publish", topic, extra).current() as operation:
            yield operation.traceparent

    def headers(self) -> dict[str, str]:
        """Return the headers of an HTTP request with the current trace context."""
        carrier: dict[str, str] = {}
        if self.propagates:
            _trace_context.inject(carrier)
        return carrier

    def _operation(
        self, name: str, topic: str | None, extra: Mapping[str, Any], *, context: Context | None = None,
        records: bool = True,
    ) -> "Operation":  # fmt: skip
        """Begin a span with the kind of the operation."""
        label = None if topic is None else self.owner.label(topic)
        attributes = {**self._attributes, "messaging.operation.name": name}
        if label is not None:
            attributes["messaging.destination.template"] = label
        sends = name in ("send", "publish")
        more: dict[str, Any] = {"messaging.operation.type": "send"} if sends else {}
        if topic is not None:
            more["messaging.destination.name"] = topic
        span = None if self.owner.tracer is None else self.owner.tracer.start_span(
            name if label is None else f"{name} {label}",
            context,
            SpanKind.PRODUCER if sends and self.propagates else SpanKind.CLIENT,
            {**attributes, **more, **extra},
        )  # fmt: skip
        histogram = self.owner.records.operation if records and self.owner.records is not None else None
        return Operation(span, histogram, attributes, propagates=self.propagates)

    # --- connects and joins

    def status(self, status: StatusEvent) -> None:
        """Begin or end the span of a connect or of a join, as the state of the connection or channel has changed."""
        state = status.state
        if state is status.previous:
            return
        topic = status.topic
        if (operation := self._pending.pop(topic, None)) is not None:
            operation.end(None if state in _SUCCEEDED else status.cause)
        if topic is None:
            if state is ConnectionState.CONNECTING:
                by_user = status.previous is ConnectionState.IDLE
                self._pending[None] = self._operation("connect", None, {}, context=None if by_user else _ROOT)
        elif state is ChannelState.WAITING and status.previous in (ChannelState.IDLE, ChannelState.FAILED):
            self._callers[topic] = contexts.get_current()  # the join may be sent later, by a timer
        elif state in (ChannelState.JOINING, ChannelState.REJOINING):
            self._pending[topic] = self._operation("join", topic, {}, context=self._callers.pop(topic, _ROOT))
        else:
            self._callers.pop(topic, None)


_SUCCEEDED: Final = (ConnectionState.OPEN, ChannelState.JOINED)


class Operation:
    """A running connect, join or send: a span, and its duration."""

    __slots__ = ("_attributes", "_began", "_histogram", "_propagates", "_span")

    def __init__(
        self, span: Span | None, histogram: metrics.Histogram | None, attributes: dict[str, Any], *, propagates: bool
    ) -> None:
        self._span = span
        self._histogram = histogram
        self._attributes = attributes
        self._propagates = propagates
        self._began = time.perf_counter()

    @property
    def traceparent(self) -> str | None:
        """The trace context that its messages carry, None if they carry none."""
        if not self._propagates:
            return None
        carrier: dict[str, str] = {}
        _trace_context.inject(carrier, None if self._span is None else trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def end(self, error: BaseException | None) -> None:
        """End it with its error, if any."""
        seconds = time.perf_counter() - self._began
        if error is not None:
            self._attributes["error.type"] = type(error).__qualname__
        if self._histogram is not None:
            self._histogram.record(seconds, self._attributes)
        if self._span is not None:
            _end_span(self._span, error)

    @contextmanager
    def current(self) -> "Generator[Operation, None, None]":
        """Make its span the current one of a block, and end it afterwards."""
        token = None if self._span is None else contexts.attach(trace.set_span_in_context(self._span))
        try:
            yield self
        except BaseException as error:
            self.end(error)
            raise
        else:
            self.end(None)
        finally:
            if token is not None:
                contexts.detach(token)


def _end_span(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


# --- handlers


class Processing:
    """A running call of a handler."""

    __slots__ = ("_attributes", "_began", "_histogram", "_span", "_token")

    def __init__(self, span: Span | None, histogram: metrics.Histogram | None, attributes: dict[str, Any]) -> None:
        self._span = span
        self._histogram = histogram
        self._attributes = attributes
        self._token = None if span is None else contexts.attach(trace.set_span_in_context(span, _ROOT))
        self._began = time.perf_counter()

    def suspend(self) -> None:
        """Make the span no longer the current one: the handler has returned an awaitable, which runs later."""
        if self._token is not None:
            contexts.detach(self._token)
            self._token = None

    def resume(self) -> None:
        """Make the span the current one again."""
        if self._span is not None:
            self._token = contexts.attach(trace.set_span_in_context(self._span, _ROOT))

    def end(self, error: BaseException | None) -> None:
        """End it with what the handler raised, if anything."""
        seconds = time.perf_counter() - self._began
        if not isinstance(error, GeneratorExit):  # it may come from another context
            self.suspend()
        if error is not None:
            self._attributes["error.type"] = type(error).__qualname__
        if self._histogram is not None:
            self._histogram.record(seconds, self._attributes)
        if self._span is not None:
            _end_span(self._span, error)


def _begin(owner: Telemetry, event: Any, server: Mapping[str, Any], attributes: Mapping[str, Any]) -> Processing | None:
    """Begin to process an event; return None if it is not a message."""
    kind, message_id, traceparent = "presence", None, None
    if isinstance(event, Broadcast):
        kind, message_id, traceparent = "broadcast", event.id, trace_of(cast("Broadcast[Any]", event))
    elif isinstance(event, _CHANGES):
        kind = "change"
        if owner.records is not None:
            _record_lag(owner.records.lag, event, attributes)
    elif not isinstance(event, _PRESENCE):
        return None
    topic = event.topic
    label = owner.label(topic)
    common: dict[str, Any] = {
        **attributes, "messaging.system": SYSTEM, "messaging.operation.name": "process", "supawire.event.kind": kind,
    }  # fmt: skip
    if label is not None:
        common["messaging.destination.template"] = label
    span = None
    if owner.tracer is not None:
        more = {"messaging.operation.type": "process", "messaging.destination.name": topic}
        if message_id is not None:
            more["messaging.message.id"] = message_id
        span = owner.tracer.start_span(
            "process" if label is None else f"process {label}",
            _ROOT,
            SpanKind.CONSUMER,
            {**server, **common, **more},
            _links(traceparent),
        )
    return Processing(span, None if owner.records is None else owner.records.process, common)


def _links(traceparent: str | None) -> list[Link]:
    if traceparent is None:
        return []
    sender = trace.get_current_span(_trace_context.extract({"traceparent": traceparent}, _ROOT)).get_span_context()
    return [Link(sender)] if sender.is_valid else []


def _record_lag(lag: metrics.Histogram, event: Any, attributes: Mapping[str, Any]) -> None:
    """Record the seconds since the commit of a change, by the clock of this machine."""
    try:
        committed_at = event.commit_timestamp
    except Exception:  # noqa: BLE001  the server sent no valid time; the handler gets the error if it asks for it
        return
    if committed_at is not None:
        lag.record(max(0.0, time.time() - committed_at.timestamp()), attributes)


class _Awaited:
    """An awaitable that a plain handler returned; the call ends when it is done."""

    def __init__(self, result: Any, processing: Processing) -> None:
        self._result = result
        self._processing = processing

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._run().__await__()

    async def _run(self) -> None:
        self._processing.resume()
        try:
            await self._result
        except BaseException as error:
            self._processing.end(error)
            raise
        self._processing.end(None)

    def __del__(self) -> None:
        if inspect.iscoroutine(self._result):
            self._result.close()
