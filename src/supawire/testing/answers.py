"""What is answered to the frames of a client: as a test says, else yes.

Joins, leaves, tracks, heartbeats and broadcasts that want a confirmation get "ok", a join of row changes also the word
that they are live. Nothing else is said, and nobody else is there: for that there are servers (`VirtualServer`,
`LocalServer`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from supawire.core import frames
from supawire.options import check_choice, check_count, check_topic
from supawire.testing.recorded import RecordedFrame

ANSWERED: Final = (frames.JOIN, frames.LEAVE, frames.HEARTBEAT, frames.BROADCAST, frames.PRESENCE)
"""The events that are answered."""

STATUSES: Final = ("ok", "error")

Said = tuple[str, str, Any, str | None, str | None]
"""Topic, event, payload, ref and join_ref of what the client is to get."""


@dataclass
class Rule:
    """What the next frames of an event are answered."""

    event: str
    topic: str | None
    reply: dict[str, Any] | None
    left: int | None

    def fits(self, frame: RecordedFrame) -> bool:
        """Whether this frame is one of them."""
        return frame.event == self.event and self.topic in (None, frame.topic)


class Answers:
    """The rules of a test, newest last; and what is said when none fits."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._confirmed: set[str] = set()
        """The topics whose joins asked for confirmations of broadcasts."""

    def add(self, event: str, topic: str | None, reply: dict[str, Any] | None, times: int | None) -> None:
        """Answer the next frames so, `times` of them or for ever; a reply of None: not at all."""
        check_choice("event", event, ANSWERED)
        full = topic if topic in (None, frames.PHOENIX) else check_topic(topic)
        self._rules.append(Rule(event, full, reply, None if times is None else check_count("times", times)))

    def clear(self) -> None:
        """Forget the rules."""
        self._rules.clear()

    def find(self, frame: RecordedFrame) -> Rule | None:
        """The rule for this frame, which is used up by it."""
        rule = next((rule for rule in self._rules if rule.fits(frame)), None)
        if rule is not None and rule.left is not None:
            rule.left -= 1
            if not rule.left:
                self._rules.remove(rule)
        return rule

    def ruled(self, rule: Rule, frame: RecordedFrame) -> Iterator[Said]:
        """What a rule says."""
        if rule.reply is not None:
            yield str(frame.topic), frames.REPLY, rule.reply, frame.ref, frame.join_ref

    def usual(self, frame: RecordedFrame) -> Iterator[Said]:
        """What is said when no rule fits, and nobody else answers."""
        if frame.event not in ANSWERED or frame.topic is None:
            return
        if frame.event == frames.BROADCAST and frame.topic not in self._confirmed:
            return
        response: dict[str, Any] = {}
        if frame.event == frames.JOIN:
            bindings = frame.config.get("postgres_changes", [])
            response = {"postgres_changes": [{**one, "id": number} for number, one in enumerate(bindings, 1)]}
            self._note(frame)
        yield frame.topic, frames.REPLY, {"status": "ok", "response": response}, frame.ref, frame.join_ref
        if frame.event == frames.JOIN:
            yield from _after_join(frame)
        if frame.event == frames.LEAVE:
            yield frame.topic, frames.CLOSE, {}, frame.join_ref, frame.join_ref

    def _note(self, frame: RecordedFrame) -> None:
        confirmed = frame.config.get("broadcast", {}).get("ack") is True
        (self._confirmed.add if confirmed else self._confirmed.discard)(str(frame.topic))


def _after_join(frame: RecordedFrame) -> Iterator[Said]:
    topic, config = str(frame.topic), frame.config
    if config.get("presence", {}).get("enabled"):
        yield topic, frames.PRESENCE_STATE, {}, None, frame.join_ref
    if config.get("postgres_changes"):
        live = {"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL"}
        yield topic, frames.SYSTEM, {**live, "channel": topic.removeprefix(frames.PREFIX)}, None, frame.join_ref
