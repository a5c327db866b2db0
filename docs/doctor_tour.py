"""`python -m docs.doctor_tour` writes the output of real runs of `supawire doctor` into docs/doctor.md.

Ports and durations, which differ from run to run, are replaced. Needs the extra `postgres`.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from supawire.server import LocalServer

PAGE: Final = Path(__file__).resolve().parent / "doctor.md"
SETUP: Final = """
    create table orders (id bigint primary key, status text, owner uuid);
    alter table orders enable row level security;
    create policy "owners read" on orders for select to authenticated using (owner = auth.uid());
    insert into orders values (1, 'open', '7d8f9a52-0000-4000-8000-000000000001');
    create table notes (id bigint primary key, body text);
    alter publication supabase_realtime add table orders, notes;
    create policy "staff read" on realtime.messages for select to authenticated using (realtime.topic() = 'room:staff');
"""
_TOUR: Final = re.compile(r"(<!-- tour: (?P<name>[\w-]+) -->\n\n)(?P<text>.*?)(\n<!-- end of tour -->)", re.DOTALL)


def runs() -> Iterator[tuple[str, str]]:
    """Yield the name of each run and what a shell shows of it."""
    with LocalServer(postgres=True) as server:
        server.sql(SETUP)
        places = {
            "$SUPABASE_URL": server.url,
            "$SUPABASE_KEY": server.anon_key,
            "$TOKEN": server.token(sub="7d8f9a52-0000-4000-8000-000000000001"),
            "$DATABASE_URL": server.database_url,
        }
        yield "healthy", _run("supawire doctor $SUPABASE_URL --table notes --database-url $DATABASE_URL", places)
        yield "no-events", _run("supawire doctor $SUPABASE_URL --table orders --database-url $DATABASE_URL", places)
        yield (
            "private",
            _run(
                "supawire doctor $SUPABASE_URL --token $TOKEN --topic room:staff --database-url $DATABASE_URL", places
            ),
        )
    yield "unreachable", _run("supawire doctor $SUPABASE_URL", places)


def _run(command: str, places: dict[str, str]) -> str:
    words = [places.get(word, word) for word in shlex.split(command)][1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SUPA", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "supawire.cli", *words],
        env={**environment, "SUPABASE_KEY": places["$SUPABASE_KEY"], "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr:
        raise RuntimeError(done.stderr)
    return f"```text\n$ {command}\n{_fixed(done.stdout)}$ echo $?\n{done.returncode}\n```\n"


def _fixed(text: str) -> str:
    """Replace what differs from run to run."""
    for pattern, instead in (
        (r"127\.0\.0\.1:\d+", "127.0.0.1:54321"),
        (r"\(\d+\.\d\d s\)", "(0.01 s)"),
        (r"\b\d+ ms\b", "2 ms"),
        (r" in \d+\.\d s$", " in 0.2 s"),
        (r"valid until \d{4}-\d\d-\d\d", "valid until 2036-03-09"),
        (r"PostgreSQL \d+\.\d+", "PostgreSQL 18.6"),
        (r"[1-9]\d* of \d+ slots used", "1 of 20 slots used"),
    ):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def rewritten(text: str) -> str:
    """Return the text of the page with the output of new runs."""
    found = dict(runs())
    return _TOUR.sub(lambda place: f"{place[1]}{found[place['name']]}{place[4]}", text)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
