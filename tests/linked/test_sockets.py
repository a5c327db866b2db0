"""Channels of one client spread over several sockets, linked to the hub under virtual time."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.effects import ChannelLimitLearned, Connect, FetchToken, StatusChanged
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.sockets import IDLE_AFTER
from supawire.errors import ConnectError, RateLimitedError
from supawire.events import ChannelState, ConnectionState
from supawire.options import Backoff, Limits, Secret, SessionOptions
from supawire.selectors import broadcast, changes, gaps
from supawire.server.hub_options import HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.testing.linked import SECRET, LinkedClient, World


def world_of(limit: int = 4, **options: Any) -> World:
    """Return a world whose server accepts this number of channels on a connection."""
    return World(hub=HubOptions(secret=SECRET, limits=ServerLimits(channels=limit), **options))


def client_of(world: World, limit: int | None = 4, sockets: int = 10, **options: Any) -> LinkedClient:
    """Return a client that may have this number of sockets."""
    limits = Limits(channels=limit, joins_per_second=options.pop("joins", None))
    return world.client(SessionOptions(limits=limits, max_sockets=sockets, **options))


def subscribe(client: LinkedClient, *numbers: int) -> list[str]:
    """Subscribe to topics with these numbers and return the full topics."""
    topics = [client.channel(f"room-{number}") for number in numbers]
    for topic in topics:
        client.start(client.session.join, topic)
    return topics


def placed(client: LinkedClient) -> dict[int, list[str]]:
    """Return the names of the joined channels by socket."""
    found: dict[int, list[str]] = {}
    for channel in client.session.channels.values():
        if channel.state is ChannelState.JOINED:
            found.setdefault(channel.socket, []).append(channel.name)
    return found


def joined(client: LinkedClient) -> int:
    """Return the number of joined channels."""
    return sum(map(len, placed(client).values()))


def test_each_channel_of_several_sockets_gets_its_broadcast() -> None:
    """Ten channels with four per socket are on three sockets, and each receives what is sent to its topic, once."""
    world = world_of()
    ada = client_of(world)
    topics = subscribe(ada, *range(10))
    received = {topic: ada.collect(topic, broadcast("e")) for topic in topics}
    world.run_for(5)
    assert {number: len(names) for number, names in placed(ada).items()} == {0: 4, 1: 4, 2: 2}
    assert len(list(world.live())) == 3
    for number in range(10):
        world.act(world.hub.broadcast, f"room-{number}", "e", {"n": number}, world.clock.now)
    world.run_for(1)
    assert [[message.payload for message in received[topic]] for topic in topics] == [[{"n": n}] for n in range(10)]


def test_a_send_uses_the_socket_of_its_channel() -> None:
    """A broadcast with acknowledgement on the last socket is confirmed, and its frames are counted there."""
    world = world_of(1)
    ada = client_of(world, 1)
    rooms = [ada.channel(f"room-{number}", ack=True) for number in range(3)]
    for room in rooms:
        ada.start(ada.session.join, room)
    world.run_for(5)
    before = [socket.frames_sent for socket in ada.session.stats().sockets]
    sent = ada.call(ada.session.broadcast, rooms[2], OutgoingBroadcast("e", b"{}", ack=True, timeout=5.0))
    world.run_for(1)
    assert ada.outcome(sent).acked
    assert [socket.frames_sent for socket in ada.session.stats().sockets] == [before[0], before[1], before[2] + 1]


def test_only_the_channels_of_a_lost_socket_join_again() -> None:
    """A lost socket is restored on its own: its channels report a gap, the others none, and none moves."""
    world = world_of()
    ada = client_of(world)
    topics = subscribe(ada, *range(8))
    lost = {topic: ada.collect(topic, broadcast(), gaps()) for topic in topics}
    world.run_for(5)
    before = placed(ada)
    wire = ada.wire
    assert wire is not None
    world.cut(wire)
    world.run_for(0.1)
    assert ada.session.state is ConnectionState.RETRYING
    assert [socket.state for socket in ada.session.stats().sockets] == [ConnectionState.OPEN, ConnectionState.RETRYING]
    world.run_for(30)
    assert ada.session.state is ConnectionState.OPEN
    assert placed(ada) == before
    assert [len(lost[topic]) for topic in topics] == [0] * 4 + [1] * 4
    assert ada.session.stats().reconnects == 1
    states = [report.status.state for report in ada.reports(StatusChanged) if report.status.topic is None]
    assert states == ["connecting", "open", "retrying", "connecting", "open"]


def test_a_socket_without_channels_is_closed_and_a_gap_is_filled_first() -> None:
    """A new channel takes the free place of an older socket; a socket whose last channel is left is closed."""
    world = world_of()
    ada = client_of(world)
    topics = subscribe(ada, *range(9))
    world.run_for(5)
    ada.start(ada.session.leave, topics[1], 5.0)
    world.run_for(1)
    subscribe(ada, 20)
    world.run_for(5)
    assert placed(ada)[0] == ["room-0", "room-2", "room-3", "room-20"]
    ada.start(ada.session.leave, topics[8], 5.0)
    world.run_for(IDLE_AFTER + 2)
    assert len(ada.session.stats().sockets) == 2
    assert len(list(world.live())) == 2
    frames = ada.session.stats().frames_sent
    subscribe(ada, 8)
    world.run_for(5)
    assert joined(ada) == 9
    assert ada.session.stats().frames_sent > frames
    assert ada.session.stats().connects == 4


def test_a_channel_that_returns_in_time_keeps_its_socket() -> None:
    """Leaving the last channel of a socket and subscribing again before the socket is closed opens no other one."""
    world = world_of(1)
    ada = client_of(world, 1)
    topics = subscribe(ada, 0, 1)
    world.run_for(5)
    ada.start(ada.session.leave, topics[1], 5.0)
    world.run_for(IDLE_AFTER / 2)
    ada.start(ada.session.join, topics[1])
    world.run_for(2 * IDLE_AFTER)
    assert placed(ada) == {0: ["room-0"], 1: ["room-1"]}
    assert ada.session.stats().connects == 2


@pytest.mark.parametrize("idle", [1.0, 11.0])
@pytest.mark.parametrize("first", [0, 1])
def test_the_end_of_an_unused_socket_does_not_keep_the_first_one_open(idle: float, first: int) -> None:
    """With `idle_disconnect`, both sockets are closed after their channels are left, and neither is opened again."""
    world = world_of(1)
    ada = client_of(world, 1, idle_disconnect=idle)
    topics = subscribe(ada, 0, 1)
    world.run_for(5)
    ada.start(ada.session.leave, topics[first], 5.0)
    world.run_for(5)
    ada.start(ada.session.leave, topics[1 - first], 5.0)
    world.run_for(60)
    assert [(socket.number, socket.state) for socket in ada.session.stats().sockets] == [(0, ConnectionState.IDLE)]
    assert ada.session.stats().connects == 2


@pytest.mark.parametrize("sockets", [1, 2])
def test_a_channel_that_returns_while_it_is_left_is_counted(sockets: int) -> None:
    """Subscribing again before the leave is answered is refused if another channel has taken the place meanwhile."""
    world = world_of(2)
    ada = client_of(world, 2, sockets=sockets)
    topics = subscribe(ada, *range(2 * sockets))
    world.run_for(5)
    for name in (topics[0], topics[0], topics[0]):  # without another channel it returns as often as it likes
        ada.start(ada.session.leave, name, 5.0)
        ada.start(ada.session.join, name)
    ada.start(ada.session.leave, topics[0], 5.0)
    if sockets == 1:
        subscribe(ada, 20)
        with pytest.raises(RateLimitedError):
            subscribe(ada, 0)
    else:  # the place is taken until the leave is answered
        with pytest.raises(RateLimitedError):
            subscribe(ada, 20)
        subscribe(ada, 0)
    world.run_for(30)
    assert joined(ada) == 2 * sockets


def test_more_channels_than_all_sockets_take_are_refused() -> None:
    """With two sockets of four channels, the ninth subscription raises at once and says what to change."""
    world = world_of()
    ada = client_of(world, sockets=2)
    subscribe(ada, *range(8))
    topic = ada.channel("one too many")
    with pytest.raises(RateLimitedError, match="2 sockets with 4 subscribed channels") as caught:
        ada.start(ada.session.join, topic)
    assert "max_sockets=" in str(caught.value)
    world.run_for(5)
    assert joined(ada) == 8


@pytest.mark.parametrize("assumed", [100, None])
@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_the_limit_of_the_server_is_learned(assumed: int | None, delay: float) -> None:
    """A server that accepts four channels instead of a hundred refuses one; the others move without a refusal each."""
    world = world_of(timings=Timings(join_error=delay))
    ada = client_of(world, assumed)
    subscribe(ada, *range(14))
    assert world.run_until(lambda: joined(ada) == 14, 30)
    assert sorted(map(len, placed(ada).values()), reverse=True) == [4, 4, 4, 2]
    assert [report.channels for report in ada.reports(ChannelLimitLearned)] == [4]
    world.run_for(60)
    assert joined(ada) == 14


def test_a_leave_is_counted_when_the_limit_is_learned() -> None:
    """Soon after a leave the server's count may be late, so its limit may be one more than the channels joined."""
    world = world_of(3)
    ada = client_of(world)
    topics = subscribe(ada, 0, 1, 2)
    world.run_for(5)
    ada.start(ada.session.leave, topics[0], 5.0)
    subscribe(ada, 3, 4)
    assert world.run_until(lambda: joined(ada) == 4, 30)
    assert not ada.reports(ChannelLimitLearned)
    eve = client_of(world, 9)
    topics = subscribe(eve, *range(3))
    world.run_for(1)
    eve.start(eve.session.leave, topics[0], 5.0)
    subscribe(eve, 3, 4)
    assert world.run_until(lambda: joined(eve) == 4, 30)
    assert [report.channels for report in eve.reports(ChannelLimitLearned)] == [4]


def test_one_call_of_the_provider_serves_all_sockets() -> None:
    """Opening eight sockets calls the token provider once, and so does the refresh; each socket gets the new token."""
    world = world_of()
    ada = client_of(world, has_token_provider=True)
    ada.provide = lambda: world.token(expires_in=100)
    subscribe(ada, *range(32))
    assert world.run_until(lambda: joined(ada) == 32, 10)
    assert len(ada.reports(FetchToken)) == 1
    world.run_for(86)
    assert len(ada.reports(FetchToken)) == 2
    assert sum(frame.event == "access_token" for frame in ada.sent()) == 32


def test_a_token_that_is_set_reaches_all_sockets() -> None:
    """`set_token` sends the new token on the channels of every socket."""
    world = world_of()
    ada = client_of(world)
    subscribe(ada, *range(10))
    world.run_for(5)
    ada.call(ada.session.set_token, Secret(world.token()))
    assert len(ada.sent("access_token")) == 10


def test_joins_and_sockets_are_paced_together() -> None:
    """The limit of joins is that of the project: 30 joins at ten per second take two seconds, also over ten sockets."""
    world = world_of(3)
    ada = client_of(world, 3, sockets=10, joins=10)
    subscribe(ada, *range(30))
    world.run_for(1.2)
    assert 10 <= len(ada.sent("phx_join")) <= 20
    assert world.run_until(lambda: joined(ada) == 30, 3)


def test_the_sockets_of_a_restarted_server_are_opened_at_a_limited_rate() -> None:
    """After all sockets were lost at once, at most ten per second are opened again, and all channels return."""
    world = world_of(1)
    ada = client_of(world, 1, sockets=30, backoff=Backoff(initial=0.1, maximum=0.1))
    subscribe(ada, *range(30))
    assert world.run_until(lambda: joined(ada) == 30, 10)
    seen = len(ada.reports(Connect))
    for wire in list(world.live()):
        world.cut(wire)
    world.run_for(0.9)
    assert len(ada.reports(Connect)) - seen <= 10
    assert world.run_until(lambda: joined(ada) == 30, 10)


def closes(client: LinkedClient) -> None:
    """Close gracefully."""
    client.call(client.session.close)


def aborts(client: LinkedClient) -> None:
    """Close at once."""
    client.call(client.session.abort, None)


@pytest.mark.parametrize("ends", [closes, aborts])
def test_closing_ends_all_sockets_once(ends: Callable[[LinkedClient], None]) -> None:
    """Closing leaves no socket, timer, ticket or channel, and the state ends in closed."""
    world = world_of()
    ada = client_of(world)
    subscribe(ada, *range(12))
    world.run_for(0.1005)  # some sockets are open, some are opening
    ends(ada)
    world.run_for(1)
    assert ada.session.state is ConnectionState.CLOSED
    assert not list(world.live())
    sizes = ada.session.table_sizes()
    assert {name: size for name, size in sizes.items() if size and name != "channels"} == {}
    assert ada.session.next_deadline is None


def test_a_refusal_of_one_socket_ends_the_client() -> None:
    """The sockets share key and project: when one is refused permanently, the client ends with that error."""
    world = world_of()
    ada = client_of(world)
    subscribe(ada, *range(4))
    world.run_for(1)
    world.refusing = 403, b""
    subscribe(ada, 10)
    world.run_for(1)
    assert ada.session.state is ConnectionState.CLOSED
    assert isinstance(ada.session.error, ConnectError) and ada.session.error.status == 403
    assert not list(world.live())


def test_a_rejoin_on_a_full_socket_stays_there() -> None:
    """A listener that needs a new join of a channel on a full socket does not move the channel."""
    world = world_of()
    ada = client_of(world)
    topics = subscribe(ada, *range(8))
    world.run_for(5)
    before = placed(ada)
    for topic in topics:
        ada.collect(topic, changes("users"))
    world.run_for(10)
    assert placed(ada) == before
    assert len(ada.sent("phx_join")) >= 16
    assert not ada.reports(ChannelLimitLearned)


def test_health_names_the_socket() -> None:
    """A client is not healthy while one of its sockets is down for longer than the grace, and says which one."""
    world = world_of()
    ada = client_of(world, backoff=Backoff(initial=60, maximum=60, jitter=0))
    subscribe(ada, *range(8))
    world.run_for(5)
    wire = ada.wire
    assert wire is not None
    assert not ada.session.troubles(ada.now.mono, 1.0, with_channels=True)
    world.cut(wire)
    world.run_for(5)
    (trouble,) = ada.session.troubles(ada.now.mono, 1.0, with_channels=False)
    assert trouble.startswith("socket 1: the connection is retrying")


class Schedule:
    """Random calls and faults on one client with several sockets, and what must hold at the end."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = world_of(3)
        quick = Backoff(initial=0.2, maximum=1.0)
        learns = self.random.random() < 0.3
        self.client = client_of(
            self.world, 100 if learns else 3, backoff=quick, rejoin_backoff=quick, has_token_provider=True
        )
        self.client.provide = self.world.token
        self.wanted: set[int] = set()

    def play(self, steps: int) -> None:
        """Take this many random steps."""
        acts = [self.subscribe] * 8 + [self.leave] * 4 + [self.remove, self.cut, self.cut, self.restart, self.wait]
        for _ in range(steps):
            self.random.choice(acts)()
            self.world.run_for(self.random.choice([0.0, 0.001, 0.05, 0.5]))

    def subscribe(self) -> None:
        """Subscribe to one of twenty topics."""
        number = self.random.randrange(20)
        subscribe(self.client, number)
        self.wanted.add(number)

    def leave(self) -> None:
        """Leave a channel."""
        if self.wanted:
            number = self.random.choice(sorted(self.wanted))
            self.client.start(self.client.session.leave, f"realtime:room-{number}", 5.0)
            self.wanted.remove(number)

    def remove(self) -> None:
        """Remove a channel."""
        if self.wanted:
            number = self.random.choice(sorted(self.wanted))
            self.client.call(self.client.session.remove, f"realtime:room-{number}")
            self.wanted.remove(number)

    def cut(self) -> None:
        """Break one connection."""
        wires = list(self.world.live())
        if wires:
            self.world.cut(self.random.choice(wires), self.random.choice([None, 1000, 1011]))

    def restart(self) -> None:
        """Break all connections."""
        for wire in list(self.world.live()):
            self.world.cut(wire)

    def wait(self) -> None:
        """Let so much time pass that idle sockets are closed."""
        self.world.run_for(2 * IDLE_AFTER)

    def check(self) -> None:
        """Let the client settle, and check channels, sockets, messages, and that nothing is left after the close."""
        client, world = self.client, self.world
        world.run_for(90)
        names = sorted(f"room-{number}" for number in self.wanted)
        found = placed(client)
        assert sorted(name for names in found.values() for name in names) == names
        assert all(len(names) <= 3 for names in found.values())
        sockets = client.session.stats().sockets
        assert len(sockets) == len(list(world.live())) == len({0, *found})
        assert {socket.number: socket.channels for socket in sockets if socket.channels} == {
            number: len(names) for number, names in found.items()
        }
        assert client.session.state is ConnectionState.OPEN
        received = {name: client.collect(f"realtime:{name}", broadcast("e")) for name in names}
        for name in names:
            world.act(world.hub.broadcast, name, "e", name, world.clock.now)
        world.run_for(1)
        assert all([event.payload for event in received[name]] == [name] for name in names)
        closes(client)
        world.run_for(1)
        sizes = client.session.table_sizes()
        assert {name: size for name, size in sizes.items() if size and name != "channels"} == {}
        assert not list(world.live())


@pytest.mark.parametrize("block", range(2))
def test_random_schedules_settle(block: int) -> None:
    """After random calls and faults, each channel is on one socket within the limit and gets each message once."""
    for seed in range(10 * block, 10 * block + 10):
        schedule = Schedule(seed)
        try:
            schedule.play(60)
            schedule.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
