"""Which browsers receive which events, and what is repeated to a browser that comes back.

A topic has one upstream channel. It is counted: opened at the first browser, and `expired` after the last one has been
gone for `linger` seconds. Its backlog has the newest messages, within a count and bytes. Numbers of messages grow over
all topics, so one id says what a browser with several topics has received.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from supawire.asgi.messages import Item, describe, encode, failure, gap, id_text, presence_item, read_id
from supawire.asgi.view import Show, View
from supawire.asgi.viewers import FAILED, Viewer
from supawire.errors import RealtimeError
from supawire.events import PresenceState, sync_of
from supawire.selectors import Selector


class Backlog:
    """The newest messages of one topic, at most `limit` and `max_bytes`."""

    __slots__ = ("_items", "_limit", "_max_bytes", "_size", "complete_after")

    def __init__(self, limit: int, max_bytes: int, opened_at: int) -> None:
        self._items: deque[Item] = deque()
        self._limit = limit
        self._max_bytes = max_bytes
        self._size = 0
        self.complete_after: int = opened_at
        """All messages of the topic after this number are here."""

    def add(self, item: Item) -> None:
        """Add the newest message, and drop the oldest ones that do not fit."""
        self._items.append(item)
        self._size += item.size
        while self._items and (len(self._items) > self._limit or self._size > self._max_bytes):
            oldest = self._items.popleft()
            self._size -= oldest.size
            self.complete_after = oldest.number

    def after(self, number: int) -> list[Item]:
        """Return the messages after this number, oldest first."""
        found: list[Item] = []
        for item in reversed(self._items):
            if item.number <= number:
                break
            found.append(item)
        return found[::-1]

    def __len__(self) -> int:
        return len(self._items)


class Topic:
    """A topic: who sees it, and what was sent on it."""

    def __init__(self, name: str, *, private: bool, backlog: Backlog) -> None:
        self.name: str = name
        self.private: bool = private
        self.backlog: Backlog = backlog
        self.viewers: dict[Viewer, View] = {}
        self.groups: dict[Selector[Any], dict[Viewer, Show | None]] = {}
        self.users: int = 0
        """Browsers that are connected or being connected."""
        self.expires_at: float | None = None
        self.present: tuple[PresenceState[Any], Item] | None = None
        """The newest presence state that was sent, and the message made from it."""
        self._last: tuple[Any, Item] | None = None

    def item_of(self, event: Any) -> Item | None:
        """Return the message that was made from this very event for another selector."""
        return self._last[1] if self._last is not None and self._last[0] is event else None

    def remember(self, event: Any, item: Item) -> None:
        """Keep the newest event, for the other selectors that it matches."""
        self._last = (event, item)


class Hub:
    """All topics and browsers of one relay.

    Args: process: the name of this process in ids. backlog, backlog_bytes: limits of each topic's backlog. linger:
    seconds for which a topic without browsers stays open. on_error: called with exceptions of `show`. on_pending:
    called when `deliver` has to be called soon.
    """

    def __init__(
        self,
        process: str,
        *,
        backlog: int,
        backlog_bytes: int,
        linger: float,
        on_error: Callable[[Exception], None],
        on_pending: Callable[[], None],
    ) -> None:
        self.process: str = process
        self._backlog = backlog
        self._backlog_bytes = backlog_bytes
        self._linger = linger
        self._on_error = on_error
        self._on_pending = on_pending
        self._pending: deque[tuple[Topic, Selector[Any] | None, Item]] = deque()
        self.topics: dict[str, Topic] = {}
        self._number = 0
        self.delivered: int = 0
        self.replayed: int = 0

    def _next(self) -> int:
        self._number += 1
        return self._number

    @property
    def newest_id(self) -> str:
        """The id up to which a browser without waiting messages has received everything."""
        waiting = next((item.number for _, _, item in self._pending if item.number), None)
        return id_text(self.process, self._number if waiting is None else waiting - 1)

    # --- topics

    def open(self, name: str, *, private: bool) -> Topic:
        """Add a topic, whose channel is opened now."""
        # a number of its own: ids from before the topic was last closed are smaller
        backlog = Backlog(self._backlog, self._backlog_bytes, self._next())
        topic = self.topics[name] = Topic(name, private=private, backlog=backlog)
        return topic

    def acquire(self, topic: Topic) -> None:
        """Count a browser that is being connected."""
        topic.users += 1
        topic.expires_at = None

    def release(self, topic: Topic, now: float) -> None:
        """Count a browser that has gone; after the last one the topic expires."""
        topic.users -= 1
        if topic.users == 0:
            topic.expires_at = now + self._linger

    def expired(self, now: float) -> list[Topic]:
        """Remove and return the topics without browsers whose time is over."""
        over = [topic for topic in self.topics.values() if topic.expires_at is not None and topic.expires_at <= now]
        for topic in over:
            del self.topics[topic.name]
        return over

    def fail(self, topic: Topic, error: RealtimeError | None) -> None:
        """Remove a topic that the server has ended; its browsers get a last message and are disconnected."""
        self.deliver()
        if self.topics.get(topic.name) is topic:
            del self.topics[topic.name]
        item = failure(topic.name, error)
        for viewer in list(topic.viewers):
            viewer.put(item)
            viewer.end(FAILED)

    # --- browsers

    def attach(self, viewer: Viewer, topics: list[tuple[Topic, View]], last_id: str | None) -> list[Item]:
        """Add a browser to its topics, and return what it has missed since `last_id`."""
        self.deliver()
        missed: list[Item] = []
        for topic, view in topics:
            if last_id is not None:
                missed += self._missed(topic, view, last_id)
            topic.viewers[viewer] = view
            for selector in view.selectors:
                topic.groups.setdefault(selector, {})[viewer] = view.show
        viewer.last_number = self._number
        missed.sort(key=lambda item: item.number)
        return missed

    def detach(self, viewer: Viewer, topics: list[tuple[Topic, View]]) -> None:
        """Remove a browser from its topics."""
        for topic, view in topics:
            topic.viewers.pop(viewer, None)
            for selector in view.selectors:
                group = topic.groups.get(selector, {})
                group.pop(viewer, None)
                if not group:
                    topic.groups.pop(selector, None)

    def _missed(self, topic: Topic, view: View, last_id: str) -> list[Item]:
        position = read_id(last_id)
        if position is None or position[0] != self.process or position[1] > self._number:
            return [self._gap(topic, view, "the id is from another process")]
        number = position[1]
        missed: list[Item] = []
        if number < topic.backlog.complete_after:
            missed.append(self._gap(topic, view, "the id is older than the backlog"))
        for item in topic.backlog.after(number):
            # joins and leaves are left out, because the presence state follows
            if item.name == "presence" or not _matches(item, view):
                continue
            try:
                shown = _shown(item, view.show)
            except Exception as error:  # noqa: BLE001  code of the user
                self._on_error(error)
                shown = self._gap(topic, view, HIDDEN)
            if shown is not None:
                missed.append(shown)
                self.replayed += 1
        return missed

    def presence(self, topic: Topic, view: View, state: PresenceState[Any]) -> Item | None:
        """Return the presence state for one browser; None if `show` hides it."""
        if topic.present is None or topic.present[0] is not state:
            topic.present = (state, presence_item(sync_of(topic.name, dict(state))))
        try:
            return _shown(topic.present[1], view.show)
        except Exception as error:  # noqa: BLE001  code of the user
            self._on_error(error)
            return self._gap(topic, view, HIDDEN)

    def _gap(self, topic: Topic, view: View, reason: str) -> Item:
        _, data = gap(topic.name, reason, lost=view.kinds)
        return Item("gap", topic.name, encode(data), lost=view.kinds)

    # --- events

    def receive(self, topic: Topic, selector: Selector[Any], event: Any) -> None:
        """Pass on an event that matches a selector. One that matches several is one message."""
        item = topic.item_of(event)
        if item is None:
            item = self._make(topic, event)
            if item is None:
                return
        if item.selectors is not None:
            item.selectors.add(selector)
        self._add_pending(topic, selector, item)

    def receive_state(self, topic: Topic, event: Any) -> None:
        """Pass on a gap of the upstream channel, or a change of its state, to all browsers that it concerns."""
        described = describe(event)
        if described is None:
            return
        name, data, lost = described
        # the state is not repeated: it may be another one by then
        number = self._next() if name == "gap" else 0
        item = Item(name, topic.name, encode(data), process=self.process, number=number, lost=lost)
        if number:
            topic.backlog.add(item)
        self._add_pending(topic, None, item)

    def _add_pending(self, topic: Topic, selector: Selector[Any] | None, item: Item) -> None:
        self._pending.append((topic, selector, item))
        if len(self._pending) == 1:
            self._on_pending()

    def deliver(self) -> None:
        """Put the pending messages into the buffers of the browsers.

        With thousands of browsers this takes longer than a handler of the upstream client may. What was received is
        delivered by one call, so that no more is pending than the client reads at once.
        """
        try:
            while self._pending:
                topic, selector, item = self._pending.popleft()
                if selector is None:
                    self._deliver_state(topic, item)
                elif group := topic.groups.get(selector):
                    self._deliver(topic, group, item)
        finally:
            if self._pending:  # `show` has raised an exception that is not an `Exception`
                self._on_pending()

    def _deliver_state(self, topic: Topic, item: Item) -> None:
        for viewer, view in topic.viewers.items():
            if _matches(item, view) and not 0 < item.number <= viewer.last_number:
                viewer.last_number = max(item.number, viewer.last_number)
                self._put(viewer, item)

    def _make(self, topic: Topic, event: Any) -> Item | None:
        described = describe(event)
        if described is None:
            return None
        name, data, lost = described
        number = self._next()
        item = Item(name, topic.name, encode(data), process=self.process, number=number, source=event, lost=lost)
        item.selectors = set()
        topic.backlog.add(item)
        topic.remember(event, item)
        return item

    def _deliver(self, topic: Topic, group: dict[Viewer, Show | None], item: Item) -> None:
        number = item.number
        made: dict[Show, Item | None] = {}
        for viewer, show in group.items():
            if viewer.last_number >= number:
                continue  # it has the message already, by another selector
            viewer.last_number = number
            if show is None:
                self._put(viewer, item)
                continue
            if show not in made:
                try:
                    made[show] = _shown(item, show)
                except Exception as error:  # noqa: BLE001  code of the user
                    self._on_error(error)
                    made[show] = self._gap(topic, topic.viewers[viewer], HIDDEN)
            shown = made[show]
            if shown is not None:
                self._put(viewer, shown)

    def _put(self, viewer: Viewer, item: Item) -> None:
        try:
            viewer.put(item)
        except Exception as error:  # noqa: BLE001  the user's key= has failed
            self._on_error(error)
            viewer.end(FAILED)
            return
        self.delivered += 1


HIDDEN: Final = "an event could not be shown"


def _matches(item: Item, view: View) -> bool:
    if item.lost and not item.lost & view.kinds:
        return False
    return item.selectors is None or not item.selectors.isdisjoint(view.selectors)


def _shown(item: Item, show: Show | None) -> Item | None:
    """Return the message that `show` makes of it, or None if it is hidden. Raises what `show` raises."""
    if show is None or item.source is None or item.lost:
        return item
    result = show(item.source)
    if result is item.source:
        return item
    return None if result is None else item.with_data(encode(result))
