"""`View`: what one browser may see of one topic."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from supawire._validation import check_bool, check_event, check_plain, check_takes, check_topic
from supawire.errors import InvalidArgumentError
from supawire.selectors import (
    BroadcastSelector,
    ChangesSelector,
    ModelSelector,
    PresenceSelector,
    Selector,
    SystemSelector,
    check_selector,
)

_KINDS: Final[dict[type[Selector[Any]], str]] = {
    BroadcastSelector: "broadcast",
    ChangesSelector: "changes",
    PresenceSelector: "presence",
    SystemSelector: "system",
}

Show = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that a browser asks to send. `topic`: that of the view; `event`, `payload`: as for `broadcast`."""

    topic: str
    event: str
    payload: Any

    def __post_init__(self) -> None:
        check_event(self.event)


Accept = Callable[[Incoming], Incoming | None | Awaitable[Incoming | None]]


class View:
    """What one browser may see of one topic, and send on it.

    Args:
        topic: the topic. selectors: `broadcast()`, `changes()`, `presence()`, `system()`: what the browser receives.
            The channel of the topic receives what all views of it select. Gaps are always passed on.
        private: join the private channel; the same in all views of a topic.
        show: a plain function, called with each event. It returns the event to show it, None to hide it, or a JSON
            value that is sent in its place; it must not change the event, whose JSON is made before. Where several
            views have the same function object, it is called once for all of them. If it raises, the event is hidden,
            and the browser receives a gap.
        accept: allows a browser to send over its WebSocket. Plain or async; called with an `Incoming`, it returns it,
            another one of the same topic, or None to refuse it. Without it, a browser that sends is disconnected.

    Raises: InvalidArgumentError: no selector, one with `model=`, or one of another kind.
    """

    __slots__ = ("accept", "kinds", "private", "selectors", "show", "topic")

    def __init__(
        self,
        topic: str,
        *selectors: Selector[Any],
        private: bool = False,
        show: Show | None = None,
        accept: Accept | None = None,
    ) -> None:
        self.topic: str = check_topic(topic).removeprefix("realtime:")
        if not selectors:
            raise InvalidArgumentError("a View needs a selector, such as broadcast() or changes('orders')")
        for selector in selectors:
            if isinstance(check_selector(selector), ModelSelector):
                raise InvalidArgumentError("model= has no effect in a View: browsers receive JSON; leave it out")
            if type(selector) not in _KINDS:
                raise InvalidArgumentError(
                    f"{selector!r} cannot be in a View, only broadcast(), changes(), presence() and system()",
                    hint="Gaps and changes of state are always passed on.",
                )
        self.selectors: tuple[Selector[Any], ...] = tuple(dict.fromkeys(selectors))
        self.kinds: frozenset[str] = frozenset(_KINDS[type(selector)] for selector in self.selectors)
        self.private: bool = check_bool("private", private)
        if show is not None:
            check_takes("show", check_plain("show", show), 1, "a plain function of one event")
            show = _hashable(show)
        if accept is not None:
            check_takes("accept", accept, 1, "a function of one Incoming")
        self.show: Show | None = show
        self.accept: Accept | None = accept

    def __repr__(self) -> str:
        return f"View({', '.join([repr(self.topic), *map(repr, self.selectors)])})"


def _hashable(show: Show) -> Show:
    """Return a function by which browsers can be grouped, also for an object without a hash, such as a dataclass."""
    try:
        hash(show)
    except TypeError:
        return partial(show)
    return show


def check_views(value: object) -> tuple[View, ...]:
    """Return one or several views as a tuple. Raises: InvalidArgumentError: none, or two of the same topic."""
    if isinstance(value, View):
        return (value,)
    views = tuple(cast("Iterable[object]", value)) if isinstance(value, Iterable) else ()
    if not views or not all(isinstance(view, View) for view in views):
        raise InvalidArgumentError(
            f"authorize must return a View or several, not {value!r}",
            hint="To refuse a browser, raise HTTPException(403).",
        )
    checked = cast("tuple[View, ...]", views)
    if len({view.topic for view in checked}) < len(checked):
        raise InvalidArgumentError("two views have the same topic; give all its selectors to one View")
    return checked
