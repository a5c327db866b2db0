"""What is measured. What is wanted of the figures stands in `budgets.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

OURS: Final = "supawire"
BLOCKING: Final = "blocking door"
BARE: Final = "bare loop"
PLAIN: Final = "websockets + json"
PYTHON: Final = "realtime-py"
NODE: Final = "realtime-js"
SERVER: Final = "local server"
CLIENTS: Final = (OURS, BLOCKING, BARE, PLAIN, PYTHON, NODE)

_EVERYONE: Final = (BARE, PLAIN, PYTHON, NODE)


@dataclass(frozen=True, slots=True)
class Task:
    """What a client does when it is its turn; it is told so in JSON.

    does: "receive" what the server pushes, "send" broadcasts, send them one by one and wait for the "ack" of each,
    receive one message per wake-up ("wake"), take the presence "state" of a channel that it joins, "join" with a client
    that is new, or measure its own "memory" or start ("import", "start").
    kind: of frame, see `frames`. reads: what user code looks at. by: who is called. channels, bindings: so many, and
    the messages go to them by turns. members: are present when it joins.
    """

    does: str = "receive"
    kind: str = "broadcast"
    reads: str = "payload"
    by: str = "handler"
    channels: int = 1
    bindings: int = 0
    members: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that a client does again and again.

    clients: who can do it, besides supawire. group: scenarios of one group have their turns side by side, so that
    figures of one may be compared with figures of another. against: the scenario whose bare loop is the measure of this
    one, when it is not its own. shows: which figures. share: what part of the usual number of messages a client gets.
    fresh: each turn is done by a new process. rounds: the most turns.
    """

    says: str
    task: Task
    clients: tuple[str, ...] = ()
    group: str = ""
    against: str = ""
    shows: tuple[str, ...] = ("cpu",)
    share: Mapping[str, float] = field(default_factory=dict[str, float])
    fresh: bool = False
    rounds: int = 100
    ours: bool = True
    """Whether supawire's async door takes part."""


_BROADCAST: Final = Task()
_CHANGE: Final = Task(kind="change", reads="record", bindings=1)
_PRESENCE: Final = Task(kind="diff", reads="nothing", members=10_000)
_DIFFS: Final = {PYTHON: 0.02, NODE: 0.1}
_STATES: Final = {PYTHON: 0.02, NODE: 0.0005}
"""realtime-js needs tens of milliseconds to say who is here."""
_SENDS: Final = {OURS: 0.5, BARE: 0.5, PLAIN: 0.2, PYTHON: 0.05, NODE: 0.2}
_ACKS: Final = {OURS: 0.05, BARE: 0.05, PYTHON: 0.02, NODE: 0.05}


def _several(what: str, task: Task, name: str, counts: tuple[int, ...]) -> dict[str, Scenario]:
    """The same with more of something."""
    return {
        f"{what}-{count}": Scenario(
            f"{count} {what if count > 1 else what.removesuffix('s')}, {name}",
            replace(task, **{what: count}),
            (PYTHON, NODE),
            group=what,
        )
        for count in counts
    }


SCENARIOS: Final[dict[str, Scenario]] = {
    "broadcast": Scenario("a broadcast in a text frame of 200 bytes, payload read", _BROADCAST, _EVERYONE, "broadcast"),
    "broadcast-async": Scenario(
        "the same, an `async` handler", replace(_BROADCAST, by="async"), (), "broadcast", "broadcast"
    ),
    "broadcast-iterated": Scenario(
        "the same, `async for`", replace(_BROADCAST, by="iterator"), (BLOCKING,), "broadcast", "broadcast"
    ),
    "broadcast-blocking": Scenario(
        "the same, handlers of the blocking door", _BROADCAST, (BLOCKING,), "broadcast", "broadcast", ours=False
    ),
    "binary": Scenario("the same message in a binary frame", replace(_BROADCAST, kind="binary"), (BARE, NODE)),
    "wake": Scenario(
        "the same, one message per wake-up, above the bare loop in the same process",
        Task(does="wake"), (BLOCKING,), shows=("above",), share={OURS: 0.02, BLOCKING: 0.02},
    ),
    "change": Scenario("a change of 600 bytes and 8 columns, record read", _CHANGE, _EVERYONE, "change"),
    "change-typed": Scenario(
        "the same, each of its columns read", replace(_CHANGE, reads="columns"), (), "change", "change"
    ),
    "change-model": Scenario(
        "the same as objects of a dataclass (`model=`)", replace(_CHANGE, reads="model"), (), "change", "change"
    ),
    "change-unread": Scenario("the same, record not read", replace(_CHANGE, reads="nothing"), (), "change", "change"),
    "change-iterated": Scenario(
        "the same, `async for`, record read", replace(_CHANGE, by="iterator"), (BLOCKING,), "change", "change"
    ),
    "change-blocking": Scenario(
        "the same, handlers of the blocking door, record read", _CHANGE, (BLOCKING,), "change", "change", ours=False
    ),
    **_several("channels", _BROADCAST, "a broadcast to each by turns", (1, 10, 100)),
    **_several("bindings", _CHANGE, "a change for each by turns, record read", (1, 10, 100)),
    "diff": Scenario(
        "a presence diff among 10,000 members", _PRESENCE, (BARE, PYTHON, NODE), "presence", share=_DIFFS
    ),
    "diff-100": Scenario("the same among 100", replace(_PRESENCE, members=100), (), "presence", "diff"),
    "diff-read": Scenario(
        "the same among 10,000, their number and one of them read after every diff",
        replace(_PRESENCE, reads="state"), (PYTHON, NODE), "presence", "diff", share=_STATES,
    ),
    "diff-read-100": Scenario(
        "the same among 100", replace(_PRESENCE, reads="state", members=100), (), "presence", "diff"
    ),
    "diff-everyone": Scenario(
        "the same among 1,000, all of them read after every diff",
        replace(_PRESENCE, reads="everyone", members=1_000), (), "presence", "diff", share={OURS: 0.05},
    ),
    "state": Scenario(
        "the presence state of 10,000 members, applied",
        Task(does="state", members=10_000), (BARE, PYTHON, NODE), share=dict.fromkeys(CLIENTS, 0.0002),
    ),
    "send": Scenario(
        "a broadcast of 200 bytes sent, without an ack", Task(does="send"), _EVERYONE, share=_SENDS
    ),
    "ack": Scenario(
        "a broadcast sent and acked, one after another",
        Task(does="ack"), (BARE, PYTHON, NODE), shows=("cpu", "p50", "p99"), share=_ACKS,
    ),
    "join": Scenario(
        "connect and join 100 channels, first of all",
        Task(does="join", channels=100), (BARE, PYTHON, NODE), shows=("wall",), fresh=True,
    ),
    "memory-channel": Scenario(
        "memory of a channel", Task(does="memory", channels=100), (PYTHON, NODE), shows=("traced", "rss"),
        fresh=True, rounds=3,
    ),
    "memory-client": Scenario(
        "memory of a client with one channel", Task(does="memory"), (BARE, PYTHON, NODE),
        shows=("traced", "rss"), fresh=True, rounds=3,
    ),
    "import": Scenario(
        "import, above the bare interpreter", Task(does="import"), (BARE, PYTHON, NODE), shows=("cpu",), fresh=True
    ),
    "start": Scenario(
        "import and the first connection", Task(does="start"), (BARE, PYTHON, NODE), shows=("cpu",), fresh=True
    ),
}  # fmt: skip
"""By name. The official Python client speaks 1.0.0, which has no binary frames."""

_READS_FOREVER: Final = {"receive", "send", "ack", "wake", "state"}
assert all(scenario.fresh != (scenario.task.does in _READS_FOREVER) for scenario in SCENARIOS.values())


def groups(names: list[str]) -> list[list[str]]:
    """These scenarios, those of one group together, in the order of the table."""
    found: dict[str, list[str]] = {}
    for name, scenario in SCENARIOS.items():
        if name in names:
            found.setdefault(scenario.group or name, []).append(name)
    return list(found.values())
