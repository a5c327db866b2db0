"""A session and the hub, linked in memory."""

from supawire.core.outbox import OutgoingBroadcast
from supawire.events import ChannelState, ConnectionState, Insert, PresenceSync, Sent
from supawire.options import SessionOptions
from supawire.selectors import broadcast, changes, gaps, presence
from supawire.server.bindings import make_change
from supawire.testing.linked import World


def test_two_clients_exchange_messages_through_the_hub() -> None:
    """Clients of both protocol versions exchange broadcasts, presence and a row change."""
    world = World()
    ada, bob = world.client(), world.client(SessionOptions(protocol="1.0.0"))
    room, same = ada.channel("lobby", ack=True, presence_key="ada"), bob.channel("lobby", presence_key="bob")
    received = bob.collect(same, broadcast("typing"))
    presences, rows = ada.collect(room, presence()), ada.collect(room, changes("users"))
    for client, topic in ((ada, room), (bob, same)):
        client.start(client.session.open)
        client.start(client.session.join, topic, ready=True)
    bob.call(bob.session.track, same, b'{"at":"desk"}', 10.0)
    world.run_for(1)
    sent = ada.call(ada.session.broadcast, room, OutgoingBroadcast("typing", b'{"n":1}', ack=True, timeout=10.0))
    row = {"id": 7}
    world.act(world.hub.emit, make_change("INSERT", "users", record=row), world.clock.now)
    world.run_for(1)
    assert ada.outcome(sent) == Sent("socket", acked=True)
    assert [message.payload for message in received] == [{"n": 1}]
    assert [(type(change), change.record) for change in rows] == [(Insert, row)]
    assert isinstance(presences[-1], PresenceSync)
    assert [meta.payload for meta in presences[-1].state["bob"]] == [{"at": "desk"}]


def test_a_broken_connection_is_restored_completely() -> None:
    """The channel is joined again, its presence tracked again, and the time between is reported as a Gap."""
    world = World()
    ada, bob = world.client(), world.client()
    room = ada.channel("lobby", presence_key="ada")
    gap_events, received = ada.collect(room, gaps()), ada.collect(room, broadcast())
    there = bob.channel("lobby", presence_key="bob")
    bob.collect(there, presence())
    for client, topic in ((ada, room), (bob, there)):
        client.start(client.session.join, topic)
    ada.call(ada.session.track, room, b'{"n":1}', 10.0)
    world.run_for(1)
    assert ada.wire is not None
    world.cut(ada.wire)
    world.run_for(0.1)
    assert ada.session.state is ConnectionState.RETRYING
    assert dict(bob.session.presence_state(there)) == {}
    world.run_for(10)
    assert ada.session.channels[room].state is ChannelState.JOINED
    assert list(bob.session.presence_state(there)) == ["ada"]
    assert [(gap.reason, sorted(gap.lost)) for gap in gap_events] == [("connection_lost", ["broadcast"])]
    world.act(world.hub.broadcast, "lobby", "e", {"n": 2}, world.clock.now)
    world.run_for(1)
    assert [message.payload for message in received] == [{"n": 2}]


def test_a_restarted_server_has_forgotten_everything_and_clients_come_back() -> None:
    """All sockets are closed with 1012, the new server has no connections, and the clients join it."""
    world = World()
    ada, bob = world.client(), world.client()
    for client in (ada, bob):
        client.start(client.session.join, client.channel("lobby"))
        client.call(client.session.open)
    world.run_for(1)
    before = world.hub
    world.restart()
    assert world.hub is not before
    assert not world.wires
    assert not world.hub.connections.peers
    world.run_for(5)
    assert len(world.hub.connections.peers) == 2
    assert {one.session.channels["realtime:lobby"].state for one in world.clients} == {ChannelState.JOINED}
