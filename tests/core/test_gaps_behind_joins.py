"""The start of a gap while the server processes a join and sends nothing else."""

from collections.abc import Callable

from supawire.events import Gap
from supawire.selectors import broadcast, changes, gaps

from .conftest import SUBSCRIBED, TROUBLE, Story


def test_a_gap_begins_where_the_server_could_say_nothing(make_story: Callable[..., Story]) -> None:
    """If the connection is lost behind an unanswered join, the gap includes what was delayed since that join (R44)."""
    story = make_story()
    story.open()
    told = story.collect(story.joined("room"), broadcast(), gaps())
    story.run_alive(100)
    asked_at = story.now.wall
    story.call(story.session.join, story.channel("slow"))
    story.run_for(3)
    story.receive("realtime:room", "broadcast", {"event": "on its way", "payload": {}})
    story.run_for(3)
    story.drop(1006)
    story.come_back()
    for join in story.sent("phx_join")[-2:]:
        story.reply(join, {"postgres_changes": []})
    gap = told[-1]
    assert isinstance(gap, Gap) and gap.reason == "connection_lost"
    assert abs(gap.started_at.timestamp() - asked_at) < 0.001


def test_a_gap_does_not_begin_before_the_join_that_it_is_about(make_story: Callable[..., Story]) -> None:
    """A channel that was joined while the server was busy with another join misses nothing from before (R44)."""
    story = make_story()
    story.open()
    story.call(story.session.join, story.channel("slow"))
    story.run_for(3)
    told = story.collect(story.channel("room"), broadcast(), gaps())
    story.call(story.session.join, "realtime:room")
    story.answer_join()
    joined_at = story.now.wall
    story.run_for(3)
    story.drop(1006)
    story.come_back()
    for join in story.sent("phx_join")[-2:]:
        story.reply(join, {"postgres_changes": []})
    assert abs(told[-1].started_at.timestamp() - joined_at) < 0.001


def test_a_gap_of_changes_begins_where_the_server_could_not_say_so(make_story: Callable[..., Story]) -> None:
    """An error of changes received behind a slow join may be as old as that join, and so is its gap (R19, R44)."""
    story = make_story()
    story.open()
    told = story.collect(story.channel("db"), changes("users"), gaps())
    story.join("realtime:db")
    story.system("realtime:db", SUBSCRIBED)
    story.run_alive(100)
    asked_at = story.now.wall
    story.call(story.session.join, story.channel("slow"))
    story.run_for(6)
    story.answer_join()
    story.system("realtime:db", TROUBLE, status="error")
    story.run_for(5)
    story.system("realtime:db", SUBSCRIBED)
    assert [(gap.reason, gap.lost) for gap in told] == [("degraded", {"changes"})]
    assert abs(told[0].started_at.timestamp() - asked_at) < 0.001
