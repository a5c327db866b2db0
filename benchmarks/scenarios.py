"""The scenarios that are measured. Their budgets are in `budgets.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

OURS: Final = "supawire"
FAST: Final = "supawire[fast]"
SYNC: Final = "sync client"
BARE: Final = "bare loop"
PLAIN: Final = "websockets + json"
PYTHON: Final = "realtime-py"
NODE: Final = "realtime-js"
SERVER: Final = "local server"
CLIENTS: Final = (OURS, FAST, SYNC, BARE, PLAIN, PYTHON, NODE)

TCP: Final = "tcp"
TLS: Final = "tls"
CARRIERS: Final = (TCP, TLS)
"""What carries the WebSocket."""
SECTIONS: Final = {TCP: "scenarios", TLS: "tls"}
"""Where a run keeps the figures of each carrier."""

_EVERYONE: Final = (FAST, BARE, PLAIN, PYTHON, NODE)


@dataclass(frozen=True, slots=True)
class Task:
    """What a client does in its turn; it receives this as JSON.

    does: "receive" what the server pushes, "send" broadcasts, send them one by one and wait for the "ack" of each,
    receive one message per wake-up ("wake"), take the presence "state" of a channel that it joins, "join" with a client
    that is new, or measure its own "memory" or start ("import", "start").
    kind: of frame, see `frames`. reads: what user code reads. by: how events are delivered. channels, bindings: their
    numbers; messages go to them in turn. members: number of members present at the join. fast, reading: options of
    supawire's transport.
    """

    does: str = "receive"
    kind: str = "broadcast"
    reads: str = "payload"
    by: str = "handler"
    channels: int = 1
    bindings: int = 0
    members: int = 0
    fast: bool = False
    reading: str = "queue"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One task that a client repeats.

    clients: those that support it, besides supawire. group: scenarios of one group alternate within a run, so that
    their figures can be compared. against: the scenario whose bare loop this one is compared with, if not its own.
    shows: the measures to report. share: fraction of the usual number of messages that a client gets. fresh: each turn
    runs in a new process. rounds: the maximum number of turns.
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
    """Whether supawire's async client takes part."""
    carriers: tuple[str, ...] = CARRIERS
    """What it is measured over."""


_BROADCAST: Final = Task()
_CHANGE: Final = Task(kind="change", reads="record", bindings=1)
_PRESENCE: Final = Task(kind="diff", reads="nothing", members=10_000)
_DIFFS: Final = {PYTHON: 0.02, NODE: 0.1}
_STATES: Final = {PYTHON: 0.02, NODE: 0.0005}
"""realtime-js needs tens of milliseconds to return the presence state."""
_SENDS: Final = {OURS: 0.5, FAST: 0.5, BARE: 0.5, PLAIN: 0.2, PYTHON: 0.05, NODE: 0.2}
_ACKS: Final = {OURS: 0.05, FAST: 0.05, BARE: 0.05, PYTHON: 0.02, NODE: 0.05}


def _several(what: str, task: Task, name: str, counts: tuple[int, ...]) -> dict[str, Scenario]:
    """Return the scenarios of one task with different numbers of channels or bindings."""
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
        "the same, `async for`", replace(_BROADCAST, by="iterator"), (SYNC,), "broadcast", "broadcast"
    ),
    "broadcast-sync": Scenario(
        "the same, handler of the sync client", _BROADCAST, (SYNC,), "broadcast", "broadcast", ours=False
    ),
    "binary": Scenario("the same message in a binary frame", replace(_BROADCAST, kind="binary"), (FAST, BARE, NODE)),
    "wake": Scenario(
        "the same, one message per wake-up: cost above that of the bare loop in the same process",
        Task(does="wake"), (FAST, SYNC), shows=("above",), share={OURS: 0.02, FAST: 0.02, SYNC: 0.02},
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
        "the same, `async for`, record read", replace(_CHANGE, by="iterator"), (SYNC,), "change", "change"
    ),
    "change-batches": Scenario(
        "the same, `async for` over `batches()` of 100, each record read",
        replace(_CHANGE, by="batches"), (SYNC,), "change", "change",
    ),
    "change-sync": Scenario(
        "the same, handler of the sync client, record read", _CHANGE, (SYNC,), "change", "change", ours=False
    ),
    **_several("channels", _BROADCAST, "a broadcast to each in turn", (1, 10, 100)),
    **_several("bindings", _CHANGE, "a change for each in turn, record read", (1, 10, 100)),
    "diff": Scenario(
        "a presence diff among 10,000 members", _PRESENCE, (BARE, PYTHON, NODE), "presence", share=_DIFFS
    ),
    "diff-100": Scenario("the same among 100", replace(_PRESENCE, members=100), (), "presence", "diff"),
    "diff-read": Scenario(
        "the same among 10,000, number of members and one member read after every diff",
        replace(_PRESENCE, reads="state"), (PYTHON, NODE), "presence", "diff", share=_STATES,
    ),
    "diff-read-100": Scenario(
        "the same among 100", replace(_PRESENCE, reads="state", members=100), (), "presence", "diff"
    ),
    "diff-everyone": Scenario(
        "the same among 1,000, all members read after every diff",
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
        Task(does="ack"), (FAST, BARE, PYTHON, NODE), shows=("cpu", "p50", "p99"), share=_ACKS,
    ),
    "join": Scenario(
        "connect and join 100 channels in a new process",
        Task(does="join", channels=100), (FAST, BARE, PYTHON, NODE), shows=("wall",), fresh=True,
    ),
    "memory-channel": Scenario(
        "memory of a channel", Task(does="memory", channels=100), (PYTHON, NODE), shows=("traced", "rss"),
        fresh=True, rounds=3,
    ),
    "memory-client": Scenario(
        "memory of a client with one channel", Task(does="memory"), (FAST, BARE, PYTHON, NODE),
        shows=("traced", "rss"), fresh=True, rounds=3,
    ),
    "import": Scenario(
        "import, above starting the interpreter", Task(does="import"), (BARE, PYTHON, NODE), shows=("cpu",), fresh=True,
        carriers=(TCP,),
    ),
    "start": Scenario(
        "import and the first connection", Task(does="start"), (FAST, BARE, PYTHON, NODE), shows=("cpu",), fresh=True
    ),
}  # fmt: skip
"""By name. The official Python client uses protocol 1.0.0, which has no binary frames."""

_READS_FOREVER: Final = {"receive", "send", "ack", "wake", "state"}
assert all(scenario.fresh != (scenario.task.does in _READS_FOREVER) for scenario in SCENARIOS.values())


def groups(names: list[str]) -> list[list[str]]:
    """Return these scenarios grouped, in the order of the table."""
    found: dict[str, list[str]] = {}
    for name, scenario in SCENARIOS.items():
        if name in names:
            found.setdefault(scenario.group or name, []).append(name)
    return list(found.values())
