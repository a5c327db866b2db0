"""Row policies that raise: as on the real server, one of them stops all changes."""

from typing import Any

import psycopg
import pytest

from supawire.server.inspector.overview import overview

from .listening import Listeners, insert_until_received, of, wait_until_logged
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(name="notes")
def _notes(sql: Sql) -> None:
    """Only the owner, a uuid, can see a note; every client can see rows of `plain`."""
    publish(sql, "notes", "id int4 primary key, owner uuid", "alter table notes enable row level security")
    run(sql, "create policy own on notes for select to authenticated using (owner = auth.uid())")
    publish(sql, "plain", "id int4 primary key")


ADA = "00000000-0000-0000-0000-00000000000a"


@pytest.mark.usefixtures("notes")
def test_a_policy_that_raises_stops_all_changes(brief: Listeners, sql: Sql, caplog: pytest.LogCaptureFixture):
    """Every poll of the real server fails and nothing is sent until several seconds after that subscriber has left."""
    with brief.listen(of("notes"), of("plain"), sub=ADA) as sound:
        with brief.listen(of("notes"), sub="alice"):
            run(sql, "insert into plain values (1)")
            assert sound.change()["record"] == {"id": 1}
            run(sql, f"insert into notes values (1, '{ADA}')", "insert into plain values (2)")
            run(sql, "insert into plain select generate_series(3, 50)")
            wait_until_logged(caplog, "a row policy raised")
            (shown,) = brief.server._do(lambda hub, now: overview(hub, now).faults)  # in the inspector
            assert "a row policy raised for role authenticated" in shown
        tries, received_id = insert_until_received(sql, sound, "plain", 100)
        assert received_id >= 100
        assert tries >= 1
        assert sound.has_no_further_status
    assert "with sub 'alice': invalid input syntax for type uuid" in caplog.text
    assert "isolate_policy_errors" in caplog.text
    assert "changes of rows are sent again" in caplog.text


@pytest.mark.usefixtures("notes")
def test_a_corrected_policy_lets_changes_through(brief: Listeners, sql: Sql, caplog: pytest.LogCaptureFixture):
    """The subscriber stays: polls succeed when the policy does not raise any more."""
    with brief.listen(of("plain")) as sound, brief.listen(of("notes"), sub="alice") as cause:
        run(sql, f"insert into notes values (1, '{ADA}')")
        wait_until_logged(caplog, "a row policy raised")
        run(sql, "drop policy own on notes", "create policy own on notes using (true)")
        _, received_id = insert_until_received(sql, sound, "plain", 1)
        assert received_id >= 1
        run(sql, f"insert into notes values (2, '{ADA}')")
        while cause.change()["record"]["id"] != 2:
            pass


@pytest.mark.usefixtures("notes")
def test_deletes_and_other_tables_evaluate_no_policy(brief: Listeners, sql: Sql):
    """A subscriber with such claims is harmless as long as no policy is evaluated."""
    run(sql, f"insert into notes values (1, '{ADA}')")
    with brief.listen(of("notes", "DELETE"), of("plain"), sub="alice") as listener:
        run(sql, "insert into plain values (1)", "delete from notes")
        assert [data["type"] for data in listener.changes(2)] == ["INSERT", "DELETE"]
