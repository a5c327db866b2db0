"""Recording of the frames that clients sent."""

from supawire.server.recorder import Recorder
from tests.server.world import SECRET, World

LAB = "realtime:lab"


def test_frames_are_recorded_in_order() -> None:
    """They have their parts and decoded payloads, in both protocol versions."""
    world = World()
    new, old = world.connect(), world.connect(vsn="1.0.0")
    new.join(config={"private": False})
    old.push("phoenix", "heartbeat", {}, ref="5")
    new.push(LAB, "broadcast", {"event": "ping", "payload": [1]}, join_ref="1")
    new.user_push(LAB, "typing", b'{"a":1}', json=True)
    new.user_push(LAB, "blob", b"\x00\xff", json=False)
    frames = world.hub.received.frames()
    assert [(frame.connection, frame.event, frame.user_event, frame.binary) for frame in frames] == [
        (1, "phx_join", None, False),
        (2, "heartbeat", None, False),
        (1, "broadcast", "ping", False),
        (1, "broadcast", "typing", True),
        (1, "broadcast", "blob", True),
    ]
    assert [frame.payload for frame in frames[2:]] == [{"event": "ping", "payload": [1]}, {"a": 1}, b"\x00\xff"]
    assert (frames[0].topic, frames[0].ref, frames[0].join_ref) == (LAB, "1", "1")


def test_tokens_are_removed() -> None:
    """They are removed from joins, from `access_token` and from frames that cannot be decoded."""
    world = World()
    client = world.connect()
    token = world.token()
    client.join(access_token=token, user_token=token)
    client.push(LAB, "access_token", {"access_token": token}, join_ref="1")
    client.raw('{"access_token":"' + token + '"')
    frames = world.hub.received.frames()
    assert frames[0].payload == {"config": {}, "access_token": "***", "user_token": "***"}
    assert frames[1].payload == {"access_token": "***"}
    assert frames[2].event is None
    shown = repr(frames) + repr(world.hub.connections.peers)
    for part in token.split("."):
        assert part not in shown
    assert SECRET not in shown + repr(world.hub.options)


def test_the_oldest_frames_are_removed_above_the_limits() -> None:
    """The number of frames and their bytes are bounded."""
    kept = Recorder(max_frames=3, max_bytes=50)
    for n in range(5):
        kept.record(n, True, b"x", False)
    assert [frame.connection for frame in kept.frames()] == [2, 3, 4]
    kept.record(9, True, b"x" * 49, False)
    assert [frame.connection for frame in kept.frames()] == [4, 9]
    kept.clear()
    assert kept.frames() == []
