"""`python -m tests.bridge.kills --kills 500`: kills processes of a bridge, and shows that nothing is lost.

Three processes run the same bridge, with its checkpoint in PostgreSQL: one is the leader, the others wait to take over.
While a thread changes rows of a table and stores broadcasts, a process is killed with SIGKILL after a random time, the
leader mostly, and another one is started. In between the broker is killed and started again, the WebSockets are cut,
and the database connections of the bridge are ended.

At the end, what is in the broker is compared with the database: each stored broadcast must be there, once and in order;
the changes, applied in the order of the broker, must give the rows of the table; no id may be there twice.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import psycopg

from supawire import LocalServer
from tests.bridge.process import TOPIC, work
from tests.bridge.servers import BrokerProcess, NatsProcess, RedisProcess

KEYS: Final = 200
BROKERS: Final[dict[str, type[BrokerProcess]]] = {"redis": RedisProcess, "nats": NatsProcess}
PATIENCE: Final = 120.0
"""Seconds that the bridge gets at the end to hand on what is left."""


class Writer(threading.Thread):
    """Changes rows and stores broadcasts, each in its own transaction."""

    def __init__(self, database: str, luck: random.Random, pause: float) -> None:
        super().__init__(name="writer", daemon=True)
        self._database = database
        self._luck = luck
        self._pause = pause
        self.ending = threading.Event()
        self.writes = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self._database, autocommit=True) as connection:
                while not self.ending.wait(self._pause):
                    self._write(connection)
        except Exception as error:  # noqa: BLE001  shown by the main thread
            self.error = error

    def _write(self, connection: "psycopg.Connection[Any]") -> None:
        key, number = self._luck.randrange(KEYS), self.writes
        if self._luck.random() < 0.2:
            connection.execute("delete from items where id = %s", (key,))
        else:
            connection.execute(
                "insert into items values (%s, %s) on conflict (id) do update set value = excluded.value",
                (key, self._luck.randrange(3)),  # few values, so that rows return to earlier ones
            )
        connection.execute("select realtime.send(jsonb_build_object('n', %s::int), 'e', %s, true)", (number, TOPIC))
        self.writes += 1


@dataclass
class Outcome:
    """What happened, and what the comparison has found."""

    faults: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    broadcasts: int = 0
    changes: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{faults}\nin the broker: {self.broadcasts} broadcasts, {self.changes} changes\n"
            f"duplicates that it removed by id: {self.results['duplicate']}; failed calls: {self.results['failure']}\n"
            f"problems: {'; '.join(self.problems) or 'none'}; {self.seconds:.0f} s"
        )


class Processes:
    """The processes of the bridge, of which a given number is killed."""

    def __init__(self, settings: dict[str, str], luck: random.Random) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([
            "supawire.bridge.app", "supawire.bridge.postgres", "supawire.bridge.redis", "supawire.bridge.jetstream",
            "supawire.history.postgres", "supawire.transport.pooled", "supawire.server.local",
            "tests.bridge.process", "tests.bridge.servers",
        ])  # fmt: skip
        self._settings = settings
        self._luck = luck
        self._running: dict[int, BaseProcess] = {}

    def fill(self, count: int) -> None:
        """Start processes until so many run."""
        for pid, process in list(self._running.items()):
            if not process.is_alive():
                raise RuntimeError(f"the process {pid} of the bridge has ended by itself with {process.exitcode}")
        while len(self._running) < count:
            process = self._context.Process(target=work, args=(self._settings,), daemon=True)
            process.start()
            assert process.pid is not None
            self._running[process.pid] = process

    def wait_for_leader(self, seconds: float) -> None:
        """Wait until a process that runs has sent something, at most for so many seconds."""
        until = time.monotonic() + seconds
        while self._leader() not in self._running and time.monotonic() < until:
            time.sleep(0.02)

    def kill_one(self) -> str:
        """Kill the leader, or any process in one of five cases; return which."""
        leader = self._leader()
        pid = leader if leader in self._running and self._luck.random() < 0.8 else None
        name = "kills of the leader"
        if pid is None:
            pid = self._luck.choice(list(self._running))
            name = "kills of any process"
        process = self._running.pop(pid)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        return name

    def kill_all(self) -> None:
        while self._running:
            self.kill_one()

    def _leader(self) -> int | None:
        path = Path(self._settings["log"])
        if not path.exists():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            lines = [line for line in file.read().split(b"\n") if line.startswith(b"leader ")]
        return int(lines[-1].split()[1]) if lines else None


def stored_in(name: str, url: str) -> list[tuple[str, dict[str, Any]]]:
    """Return id and body of each message in the broker, in its order."""
    if name == "redis":
        import redis

        with redis.Redis.from_url(url) as client:
            entries: Any = client.xrange("supawire")
        return [(fields[b"id"].decode(), json.loads(fields[b"data"])) for _, fields in entries]
    return asyncio.run(_stored_in_nats(url))


async def _stored_in_nats(url: str) -> list[tuple[str, dict[str, Any]]]:
    import nats

    client = await nats.connect(url)
    context = client.jetstream()
    total = (await context.stream_info("supawire")).state.messages
    found: list[tuple[str, dict[str, Any]]] = []
    reader = await context.pull_subscribe("supawire.>")
    while len(found) < total:
        for message in await reader.fetch(min(500, total - len(found)), timeout=10):
            found.append(((message.headers or {})["Nats-Msg-Id"], json.loads(message.data)))
            await message.ack()
    await client.close()
    return found


def compare(found: list[tuple[str, dict[str, Any]]], rows: dict[int, int], sent: list[str]) -> list[str]:
    """Return what is wrong with the messages in the broker."""
    problems: list[str] = []
    twice = [number for number, count in Counter(number for number, _ in found).items() if count > 1]
    if twice:
        problems.append(f"{len(twice)} ids are there twice")
    broadcasts = [body["id"] for _, body in found if body["kind"] == "broadcast"]
    if missing := set(sent) - set(broadcasts):
        problems.append(f"{len(missing)} broadcasts are missing")
    elif broadcasts != sent:
        problems.append("the broadcasts are not in order")
    copy: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, body in found:
        if body["kind"] == "gap":
            problems.append(f"a gap: {body}")
        if body["kind"] != "change":
            continue
        key, sequence = body["key"]["id"], int(number.rpartition("-")[2])
        if sequence <= last.get(key, 0):
            problems.append(f"the changes of the row {key} are not in order")
        last[key] = sequence
        if body["type"] == "DELETE":
            copy.pop(key, None)
        else:
            copy[key] = body["record"]["value"]
    if copy != rows:
        problems.append(f"{len(set(copy.items()) ^ set(rows.items()))} rows differ")
    return problems


def run(kills: int, name: str, *, seed: int, between: float = 1.0, pause: float = 0.02, at_once: int = 3) -> Outcome:
    """Kill so many processes, let the bridge hand on what is left, and compare."""
    luck = random.Random(seed)
    outcome = Outcome()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        BROKERS[name](Path(folder)) as broker,
        LocalServer(postgres=True) as server,
    ):
        server.sql("create table items (id int primary key, value int not null)")
        server.sql("alter publication supabase_realtime add table items")
        server.sql("create policy readers on realtime.messages for select to authenticated using (true)")
        settings = {
            "url": server.url, "key": server.anon_key, "token": server.token(), "database": server.database_url,
            "broker": broker.url, "log": f"{folder}/results",
        }  # fmt: skip
        processes = Processes(settings, luck)
        writer = Writer(server.database_url, luck, pause)
        writer.start()
        try:
            for _ in range(kills):
                processes.fill(at_once)
                if luck.random() < 0.8:  # else also while it starts
                    processes.wait_for_leader(10)
                time.sleep(luck.uniform(0, between))
                disturb(server, broker, luck, outcome.faults)
                outcome.faults[processes.kill_one()] += 1
            writer.ending.set()
            writer.join()
            if writer.error is not None:
                raise writer.error
            processes.fill(at_once)
            until = time.monotonic() + PATIENCE
            while True:
                time.sleep(0.5)
                rows: dict[int, int] = dict(server.sql("select id, value from items"))
                sent = [
                    str(number)
                    for (number,) in server.sql(
                        "select id from realtime.messages where topic = %s order by inserted_at, id", TOPIC
                    )
                ]
                found = stored_in(name, broker.url)
                outcome.problems = compare(found, rows, sent)
                if not outcome.problems or time.monotonic() > until:
                    break
        finally:
            writer.ending.set()
            processes.kill_all()
        outcome.broadcasts = sum(body["kind"] == "broadcast" for _, body in found)
        outcome.changes = sum(body["kind"] == "change" for _, body in found)
        outcome.results = Counter(Path(settings["log"]).read_text(encoding="utf-8").split("\n"))
    outcome.seconds = time.monotonic() - began
    return outcome


def disturb(server: LocalServer, broker: BrokerProcess, luck: random.Random, faults: Counter[str]) -> None:
    """Disturb something else, sometimes."""
    which = luck.random()
    if which < 0.08:
        broker.kill()
        time.sleep(luck.uniform(0, 0.3))
        broker.start()
        faults["restarts of the broker"] += 1
    elif which < 0.18:
        server.drop_connections()
        faults["cuts of the WebSockets"] += 1
    elif which < 0.26:
        server.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'supawire bridge%%'"
        )
        faults["cuts of the database connections"] += 1
    else:
        return
    time.sleep(luck.uniform(0, 0.5))


def main() -> None:
    """Run with each broker, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500, help="for all brokers together")
    parser.add_argument("--to", choices=[*BROKERS], action="append", help="both if omitted")
    parser.add_argument("--between", type=float, default=1.0, help="the most seconds between most kills")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    brokers = given.to or list(BROKERS)
    failed = False
    for name in brokers:
        outcome = run(given.kills // len(brokers), name, seed=given.seed, between=given.between)
        print(f"{name}: {outcome}", flush=True)
        failed = failed or bool(outcome.problems)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
